//! Licences and duplicates of everything we link, from the lock file, without a network.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Licences that an appliance's vendor can ship without asking.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that are there in two versions, with the reason; one that goes away has to leave this list.
const DUPLICATES: &[(&str, &str)] = &[
    (
        "getrandom",
        "boringtun's rand_core 0.6 against hickory's and tempfile's newer ones",
    ),
    ("parking_lot", "sled 0.34 against prometheus-client"),
    ("parking_lot_core", "with parking_lot"),
    ("rand_core", "x25519-dalek 2 against hickory's rand"),
    ("syn", "derive macros in the middle of a migration; build time only"),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .args(["--filter-platform", "aarch64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Packages that the dependency graph of these platforms uses.
fn packages() -> Vec<Value> {
    let metadata = metadata();
    let used: Vec<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| used.contains(&p["id"].as_str().unwrap()))
        .cloned()
        .collect()
}

/// Whether an SPDX expression can be met with the list: any side of OR, every side of AND.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let plain = expression.replace(['(', ')'], " ");
    if expression.contains('(') {
        // (A OR B) AND C: each bracket and each rest must have a licence of the list.
        return plain
            .split(" AND ")
            .all(|side| side.split(" OR ").any(|one| LICENCES.contains(&one.trim())));
    }
    plain
        .split(" OR ")
        .any(|side| side.split(" AND ").all(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn every_licence_can_be_shipped() {
    let wrong: Vec<String> = packages()
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "not in the list of licences:\n{}", wrong.join("\n"));
}

#[test]
fn duplicates_have_a_reason_and_reasons_a_duplicate() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let text = |key: &str| package[key].as_str().unwrap().to_owned();
        versions.entry(text("name")).or_default().push(text("version"));
    }
    let doubled: BTreeMap<_, _> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    let unexplained: Vec<_> = doubled
        .iter()
        .filter(|(name, _)| !DUPLICATES.iter().any(|(known, _)| *name == known))
        .collect();
    assert!(unexplained.is_empty(), "two versions of one crate: {unexplained:?}");
    let stale: Vec<_> = DUPLICATES
        .iter()
        .filter(|(known, _)| !doubled.keys().any(|name| name == known))
        .collect();
    assert!(stale.is_empty(), "no longer doubled, remove the entry: {stale:?}");
}

#[test]
fn licence_expressions_are_read_right() {
    assert!(allowed("MIT OR GPL-3.0"));
    assert!(allowed("MIT/Apache-2.0"));
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!allowed("GPL-3.0-only"));
    assert!(!allowed("MIT AND GPL-2.0"));
    assert!(!allowed("(MIT OR Apache-2.0) AND GPL-2.0"));
}
