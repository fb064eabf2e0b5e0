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
