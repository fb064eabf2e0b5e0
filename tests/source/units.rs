//! The units of `board/systemd/`, as systemd judges them.

use std::{fs, path::PathBuf, process::Command};

/// The worst exposure that a service may have, times ten (`systemd-analyze(1)`, security).
const MOST: u32 = 20;

fn units(kind: &str) -> Vec<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/board/systemd");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == kind))
        .collect();
    assert!(!found.is_empty(), "no {kind} in {directory}");
    found
}

#[test]
fn no_service_is_more_exposed_than_it_has_to_be() {
    for unit in units("service") {
        let judged = Command::new("systemd-analyze")
            .args([
                "security",
                "--offline=yes",
                "--no-pager",
                "--threshold",
                &MOST.to_string(),
            ])
            .arg(&unit)
            .output()
            .expect("systemd-analyze(1)");
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(
            said.contains("Overall exposure level"),
            "{said}{}",
            String::from_utf8_lossy(&judged.stderr)
        );
        assert!(judged.status.success(), "{}: {said}", unit.display());
    }
}

#[test]
fn every_capability_of_a_unit_is_explained() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/permissions.md")).unwrap();
    for unit in units("service") {
        let text = fs::read_to_string(&unit).unwrap();
        let name = unit.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
        let granted = text
            .lines()
            .find_map(|line| line.strip_prefix("AmbientCapabilities="))
            .unwrap();
        let bounding = text
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .unwrap();
        assert_eq!(granted, bounding, "{name}: what is not granted is not to be had");
        for capability in granted.split_whitespace() {
            assert!(
                page.contains(&format!("| `{capability}`")),
                "{name}: {capability} is not on the page"
            );
        }
    }
}
