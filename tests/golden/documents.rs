//! Bad documents with everything the check says about them: `NAME.toml` or `NAME.json`, and `NAME.expected`
//! with one error a line; and `docs/document.md`, whose reference part is made from the schema and whose
//! examples are checked. `UPDATE_GOLDEN=1` writes both anew; read the difference before you keep it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tunneld::model::check;

const BEGIN: &str = "<!-- made from the schema: begin -->\n";
const END: &str = "<!-- made from the schema: end -->\n";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> io::Result<Vec<PathBuf>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(project().join("tests/golden/documents"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension != "expected") {
            cases.push(path);
        }
    }
    cases.sort();
    Ok(cases)
}

fn writes() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

fn findings(text: &str) -> String {
    let line = |prefix: &str, finding: &check::DocumentError| format!("{prefix}{finding}\n");
    match check::validate(text) {
        Ok((_, _, warnings)) => warnings.iter().map(|finding| line("warning: ", finding)).collect(),
        Err(errors) => errors.iter().map(|finding| line("", finding)).collect(),
    }
}

#[test]
fn every_document_gets_exactly_its_findings() {
    let cases = cases().unwrap();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut wrong = String::new();
    for case in cases {
        let found = findings(&fs::read_to_string(&case).unwrap());
        let expected = case.with_extension("expected");
        if writes() {
            fs::write(&expected, &found).unwrap();
        }
        assert!(!found.is_empty(), "{}: nothing found", case.display());
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if found != wanted {
            wrong += &format!("{}\n--- expected\n{wanted}--- found\n{found}\n", case.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_reference_page_has_every_field() {
    let page = project().join("docs/document.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let made = reference(&check::schema());
    assert!(made.matches("\n| `").count() > 60, "{made}");
    if writes() {
        fs::write(&page, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            written, made,
            "docs/document.md is behind the schema: run this test with UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn the_reference_pages_examples_have_no_findings() {
    let text = fs::read_to_string(project().join("docs/document.md")).unwrap();
    let mut examples = 0;
    for part in text
        .split("\n```")
        .filter(|part| part.starts_with("toml\n") || part.starts_with("json\n"))
    {
        let example = &part[5..];
        assert_eq!(findings(example), "", "{example}");
        examples += 1;
    }
    assert!(examples >= 4, "{examples} examples");
}

/// The reference part of the page: a table for each table of the document.
fn reference(schema: &Value) -> String {
    let mut made = String::new();
    section(&mut made, "The document", schema, schema);
    for (header, name) in [
        ("`[appliance]`", "Appliance"),
        ("`[forwarding]`", "Forwarding"),
        ("`[[interface]]`", "Interface"),
        ("`[[wireguard]]`", "WireGuard"),
        ("`[[wireguard.peers]]`", "Peer"),
        ("`[[route]]`", "Route"),
        ("`nexthops` of `[[route]]`", "NextHop"),
        ("`[[rule]]`", "Rule"),
    ] {
        section(&mut made, header, definition(schema, name), schema);
    }
    let told = schema["$defs"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(
        made.matches("\n### ").count(),
        told + 1,
        "a table of the document is missing here"
    );
    made
}

fn section(made: &mut String, header: &str, table: &Value, schema: &Value) {
    let required = |name: &str| {
        table["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == name))
    };
    *made += &format!("\n### {header}\n\n{}\n\n", text(table, "description"));
    *made += "| key | value | meaning |\n| --- | --- | --- |\n";
    for (name, field) in table["properties"].as_object().into_iter().flatten() {
        let must = if required(name) { " **Required.**" } else { "" };
        *made += &format!(
            "| `{name}` | {} | {}{must} |\n",
            kind(field, schema),
            text(field, "description")
        );
    }
}

fn definition<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema.pointer(&format!("/$defs/{name}")).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What a field takes, in a few words.
fn kind(field: &Value, schema: &Value) -> String {
    if let Some(name) = field["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return kind(definition(schema, name), schema);
    }
    if let Some(one) = field["anyOf"].as_array().and_then(|choices| choices.first()) {
        return kind(one, schema);
    }
    if let Some(words) = field["oneOf"].as_array() {
        let words: Vec<_> = words.iter().map(|word| format!("`{}`", text(word, "const"))).collect();
        return words.join(", ");
    }
    let types = &field["type"];
    let kind = types
        .as_str()
        .or_else(|| types.as_array()?.first()?.as_str())
        .unwrap_or_default();
    let bound = |name: &str| field[name].as_u64();
    match kind {
        "object" => "table".to_owned(),
        "array" => {
            let most = bound("maxItems")
                .map(|most| format!(", at most {most}"))
                .unwrap_or_default();
            let item = self::kind(&field["items"], schema);
            let plural = if item == "address/length" { "" } else { "s" };
            format!("list of {item}{plural}{most}")
        }
        "boolean" => "`true`, `false`".to_owned(),
        "integer" => match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) if least == most => format!("{least}"),
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (least, _) => format!("number from {}", least.unwrap_or(0)),
        },
        _ => match (field["format"].as_str(), bound("maxLength")) {
            (Some(format), _) => form(format).to_owned(),
            (None, Some(most)) => format!("text of at most {most} characters"),
            (None, None) => "path".to_owned(),
        },
    }
}

/// A form of text, for people.
fn form(format: &str) -> &str {
    match format {
        "prefix" => "network",
        "ip" => "address",
        "interface-address" => "address/length",
        "interface-name" => "interface",
        "endpoint" => "host:port",
        "public-key" => "key",
        "metrics-address" => "`off`, or address:port",
        "mtu" => "`auto`, or 576 to 65535",
        "fwmark" => "`off`, number, or hexadecimal text",
        "table" => "`main`, `default`, `local`, or number",
        "table-choice" => "`auto`, `off`, or a table",
        other => other,
    }
}
