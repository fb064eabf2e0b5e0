//! The command line without a daemon: exit codes, colours, completion.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

const TUNNELD: &str = env!("CARGO_BIN_EXE_tunneld");
const BAD: &str = "version = 1\nrout = []\n[[wireguard]]\nname = \"wg0\"\nlisten-port = 70000\n";

fn tunneld(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(TUNNELD)
        .args(words)
        .env("TUNNELD_SOCKET", "/nonexistent/control.sock")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_way_to_end_without_a_daemon_has_its_code_and_one_line_to_act_on() {
    for (words, input, code, said) in [
        (&["check", "-"][..], "version = 1\n", 0, ""),
        (&["check", "-"], BAD, 3, "did you mean route"),
        (&["check", "/nonexistent.toml"], "", 2, "cannot read /nonexistent.toml"),
        (&["aply"], "", 2, "apply"),
        (&["history", "--limit", "0"], "", 2, "--limit"),
        (&["status"], "", 10, "systemctl status tunneld"),
        (
            &["apply", "-"],
            "version = 1\n",
            10,
            "nobody answers at /nonexistent/control.sock",
        ),
        (&["engine", "lo"], "", 4, "a link of this name is there"),
        (
            &["run", "--state-dir", "/proc/x", "--runtime-dir", "/proc/x"],
            "",
            1,
            "--runtime-dir",
        ),
    ] {
        let output = tunneld(words, input);
        // What a check finds is what it is asked for, and goes to standard output.
        let complaint = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {complaint}");
        assert!(complaint.contains(said), "{words:?}: {complaint}");
        let own = complaint.lines().filter(|line| line.starts_with("tunneld: "));
        assert!(own.count() <= 1, "{words:?}: {complaint}");
    }
}

#[test]
fn a_check_names_the_place_for_people_and_for_programs() {
    let output = tunneld(&["check", "-"], BAD);
    let lines = text(&output.stdout);
    let first: Vec<&str> = lines.lines().take(2).collect();
    assert!(first[0].contains(":2:1: rout: "), "{lines}");
    assert!(first[1].contains(":5:15: wireguard[0].listen-port: 70000: "), "{lines}");
    let json: serde_json::Value = serde_json::from_slice(&tunneld(&["check", "--json", "-"], BAD).stdout).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 2, "{json}");
}

#[test]
fn colours_are_for_terminals_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), BAD).unwrap();
    let path = file.path().to_str().unwrap();
    assert!(!text(&tunneld(&["check", path], "").stderr).contains('\x1b'));
    let on_terminal = |variable: &str| {
        let line = format!("{variable} {TUNNELD} check {path}");
        let words = ["-qec", &line, "/dev/null"];
        let output = Command::new("script")
            .args(words)
            .env("TERM", "xterm")
            .output()
            .unwrap();
        text(&output.stdout)
    };
    assert!(
        on_terminal("").contains("\x1b[31mtunneld\x1b[0m"),
        "{}",
        on_terminal("")
    );
    assert!(!on_terminal("NO_COLOR=1").contains('\x1b'));
}

#[test]
fn files_are_compared_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["a.toml", "b.toml"].map(|name| directory.path().join(name).to_str().unwrap().to_owned());
    fs::write(&paths[0], "version = 1\n").unwrap();
    fs::write(&paths[1], "version = 1\nroute = []\n").unwrap();
    let shown = text(&tunneld(&["diff", &paths[0], &paths[1]], "").stdout);
    assert!(shown.ends_with(" version = 1\n+route = []\n"), "{shown}");
    let json = tunneld(&["diff", "--json", &paths[0], &paths[1]], "");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json, serde_json::json!([{ "tag": "+", "line": "route = []" }]));
}

#[test]
fn the_schema_is_one_that_editors_take() {
    let schema: serde_json::Value = serde_json::from_slice(&tunneld(&["schema"], "").stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["wireguard"].is_object());
}

#[test]
fn bash_completes_commands_and_their_options() {
    let complete = |words: &str, word: &str| {
        let line = format!(
            "source <({TUNNELD} completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _tunneld tunneld '{word}' ''; echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(complete("tunneld ap", "ap"), "apply");
    assert_eq!(complete("tunneld apply --conf", "--conf"), "--confirm");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = tunneld(&["completion", shell], "");
        assert!(
            script.status.success() && text(&script.stdout).contains("rollback"),
            "{shell}"
        );
    }
}
