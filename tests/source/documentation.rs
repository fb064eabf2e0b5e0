//! Documents that follow the code.

use std::{fs, path::Path};

use tunneld::{
    cli,
    metrics::{Instruments, encode},
    model::{
        check::validate,
        document::Family,
        service::FailureKind,
        status::{PeerStatus, Revision, RouteCount, Status, Tunnel, TunnelState},
    },
};

use crate::rust_files;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// A status in which every metric has a value.
fn full_status() -> Status {
    let key: tunneld::model::types::PublicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".parse().unwrap();
    let peer = PeerStatus {
        public_key: key,
        name: None,
        state: TunnelState::Up,
        endpoint: None,
        current_endpoint: None,
        last_handshake: Some(1),
        received_bytes: 1,
        sent_bytes: 1,
        allowed_ips: vec![],
    };
    let tunnel = Tunnel {
        name: "wg0".parse().unwrap(),
        state: TunnelState::Up,
        backend: None,
        engine: None,
        public_key: None,
        listen_port: 0,
        fwmark: Default::default(),
        mtu: Some(1420),
        addresses: vec![],
        routes: 0,
        repairs: 0,
        peers: vec![peer],
    };
    let count = RouteCount {
        family: Family::Ipv4,
        table: tunneld::model::types::TableId::MAIN,
        class: "static".into(),
        count: 1,
    };
    Status {
        revision: Some(Revision {
            number: 1,
            time: 1,
            author: Default::default(),
            comment: String::new(),
        }),
        tunnels: vec![tunnel],
        routes: vec![count],
        repairs: [("route".into(), 1)].into(),
        dropped: [("log".into(), 1)].into(),
        ..Status::default()
    }
}

#[test]
fn the_metrics_page_lists_exactly_the_metrics() {
    let (text, _) = encode(full_status(), &Instruments::default(), 2, false, false).unwrap();
    let mut exported: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let page = read("docs/metrics.md");
    let mut listed: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    exported.sort_unstable();
    listed.sort_unstable();
    assert_eq!(exported, listed);
}

#[test]
fn the_readme_s_document_has_no_errors() {
    let readme = read("README.md");
    let document = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let (_, _, warnings) = validate(document).unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        )
    });
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn every_command_that_the_documents_name_exists_and_all_are_named() {
    let commands = cli::command_names();
    let mut named = Vec::new();
    for file in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/control.md",
        "docs/document.md",
        "docs/engine.md",
        "docs/permissions.md",
        "docs/safe-mode.md",
    ] {
        let text = read(file);
        for (at, mark) in text.match_indices("tunneld ") {
            let word: String = text[at + mark.len()..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            // A command is meant inside code: at the start of an indented line or behind a back-tick.
            let before = &text[..at];
            if before.ends_with('`') || before.ends_with("    ") {
                assert!(
                    commands.contains(&word),
                    "{file} names tunneld {word}, which is no command"
                );
                named.push(word);
            }
        }
    }
    for command in ["check", "plan", "apply", "status", "history", "doctor", "schema"] {
        assert!(
            named.iter().any(|name| name == command),
            "no document names tunneld {command}"
        );
    }
}

#[test]
fn every_claim_of_the_threat_model_names_tests_that_exist() {
    let files = [rust_files("src"), rust_files("tests")].concat();
    let sources: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let page = read("docs/threat-model.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 1);
    let claims: Vec<&str> = rows
        .filter_map(|line| line.split(" | ").nth(1))
        .filter(|cell| cell.contains('_'))
        .collect();
    assert!(claims.len() > 30, "{claims:?}");
    for claim in claims {
        let tests: Vec<&str> = claim.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{claim}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

#[test]
fn pages_that_are_linked_exist() {
    for file in ["README.md", "CONTRIBUTING.md"] {
        for link in read(file).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let found = link.starts_with("http") || Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists();
            assert!(found, "{file} links to {link}");
        }
    }
}

#[test]
fn nothing_names_a_path_of_one_machine() {
    let output = std::process::Command::new("git")
        .args([
            "grep",
            "-nE",
            "/(home|root|work)/[a-z]",
            "--",
            ".",
            ":!Cargo.lock",
            ":!tests/source/documentation.rs",
            // Where the guest's first program puts its root: on no machine but that.
            ":!tests/vm/initrd",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_way_to_fail_is_listed_with_its_exit_code_in_the_page_and_in_the_help() {
    let page = read("docs/control.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 5)
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let mut codes: Vec<u8> = rows
        .iter()
        .filter_map(|row| {
            let kind: FailureKind = serde_json::from_value(row[1].into()).ok()?;
            let code = row[3].parse().unwrap();
            assert_eq!(kind.exit_code(), code, "{}", row[1]);
            Some(code)
        })
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, (1..=11).collect::<Vec<u8>>());
    let help = read("src/cli/mod.rs");
    for code in 0..=11 {
        assert!(
            help.contains(&format!("  {code} ")),
            "--help does not say what {code} is"
        );
    }
}
