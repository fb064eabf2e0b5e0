//! What holds for every text.

use super::*;

fn messages(text: &str) -> Vec<String> {
    validate(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn columns_count_characters() {
    let text = "version = 1\n[appliance]\nname = \"é😀\" # é\nmanagement = [\"é\", \"10.0.0.1/8\"]\n";
    let errors = messages(text);
    assert_eq!(
        errors,
        [
            "4:15: appliance.management[0]: \"é\": this is not a network; write address/length, such as 20.20.20.0/24 or fd00::/64",
            "4:20: appliance.management[1]: \"10.0.0.1/8\": host bits are set; write 10.0.0.0/8",
        ]
    );
    let json = "{\"version\": 1,\n \"appliance\": {\"name\": \"é😀\", \"management\": [\"é\", \"10.0.0.1/8\"]}}";
    let errors = messages(json);
    assert!(
        errors[0].starts_with("2:45: appliance.management[0]: \"é\": "),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("2:50: appliance.management[1]: \"10.0.0.1/8\": "),
        "{errors:?}"
    );
}

#[test]
fn an_error_is_a_finding_at_its_place() {
    let findings: Vec<Finding> = validate("version = 2\nx")
        .unwrap_err()
        .into_iter()
        .map(Finding::from)
        .collect();
    assert_eq!(findings[0].object, "1:11 version");
    assert_eq!(findings[0].reason, "2: this number is out of range; write 1");
    assert_eq!(findings[1].object, "2:2");
}

#[test]
fn exhausting_documents_are_refused() {
    let deep_header = format!("[{}a]\n", "a.".repeat(200_000));
    let deep_value = format!("version = 1\nx = {}", "[".repeat(200_000));
    let deep_key = format!("version = 1\nx = {{{}a = 1}}", "a.".repeat(200_000));
    let deep_tables = format!("version = 1\nx = {}", "{a = ".repeat(200_000));
    let deep_json = format!("{}1{}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
    let large = format!("# {}\n", "x".repeat(crate::model::document::MAX_BYTES));
    let garbage = "= ".repeat(1 << 20);
    let keys: String = (0..300_000).map(|number| format!("a{number}=1\n")).collect();
    for text in [
        deep_header,
        deep_value,
        deep_key,
        deep_tables,
        deep_json,
        large,
        garbage,
        keys,
    ] {
        let errors = validate(&text).unwrap_err();
        assert!((1..=1_001).contains(&errors.len()), "{}", errors.len());
    }
}

#[test]
fn no_error_repeats_a_secret() {
    let key = "ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=";
    let document = r#"version = 1
[[wireguard]]
name = "wg0"
private-key-file = "/etc/key"
[[wireguard.peers]]
public-key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
endpoint = "192.0.2.1:1"
allowed-ips = ["10.0.0.0/8"]
"#;
    // Pasted over every value but the public key, with and without its quotes, and as a key.
    let lines: Vec<_> = document.lines().collect();
    for (number, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("public-key"))
    {
        let name = line.split('=').next().unwrap();
        for pasted in [
            format!("{name} = \"{key}\""),
            format!("{name} = {key}"),
            format!("{name} = [\"{key}\"]"),
            format!("{line} {key}"),
            key.to_owned(),
            format!("{key} = 1"),
            format!("\"{key}\" = 1"),
            format!("[\"{key}\"]"),
        ] {
            let mut lines: Vec<_> = lines.clone();
            lines[number] = &pasted;
            for error in validate(&lines.join("\n")).unwrap_err() {
                assert!(!error.to_string().contains(&key[..20]), "{pasted}: {error}");
            }
        }
    }
}

#[test]
fn a_thousand_peers_with_many_networks_each_are_resolved() {
    let mut text = "version = 1\n[[wireguard]]\nname = \"wg0\"\naddresses = [\"172.16.0.1/16\"]\n".to_owned();
    for peer in 0..1_000_u32 {
        use base64::Engine as _;
        let mut key = [1; 32];
        key[..4].copy_from_slice(&peer.to_be_bytes());
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let networks: String = (0..100_u32)
            .map(|network| {
                format!(
                    "\"{}/32\",",
                    std::net::Ipv4Addr::from(0x0a00_0000 + peer * 256 + network)
                )
            })
            .collect();
        text += &format!(
            "[[wireguard.peers]]\npublic-key = \"{key}\"\nendpoint = \"192.0.2.1:{}\"\nallowed-ips = [{networks}]\n",
            peer + 1
        );
    }
    let (_, desired, warnings) = validate(&text).unwrap();
    assert_eq!(desired.routes.len(), 100_000);
    assert_eq!(warnings, []);
}
