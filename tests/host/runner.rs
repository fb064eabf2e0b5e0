//! `tests/run` itself: what it says about tests that fail, are skipped, or are not there. Cargo is a stand-in.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Runs a part with a cargo that prints this and ends so; the last line of the output, and whether all is well.
fn run(part: &str, printed: &str, code: u8) -> (String, bool) {
    let directory = tempfile::tempdir().unwrap();
    let cargo = directory.path().join("cargo");
    fs::write(&cargo, format!("#!/bin/sh\ncat <<'EOT'\n{printed}\nEOT\nexit {code}\n")).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
    let output = Command::new(script)
        .args(["--no-install", part])
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (
        said.lines().last().unwrap_or_default().to_owned(),
        output.status.success(),
    )
}

#[test]
fn a_part_is_well_only_if_something_passed_and_nothing_failed_or_was_skipped() {
    let good = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.01s";
    let skipped = good.replace("0 ignored", "1 ignored");
    let failed = good.replace("ok. 3", "FAILED. 2").replace("0 failed", "1 failed");
    let nothing = good.replace("3 passed", "0 passed");
    for (printed, code, counted, well) in [
        (good, 0, "3 passed, 0 failed, 0 skipped", true),
        (&format!("{good}\n{good}"), 0, "6 passed, 0 failed, 0 skipped", true),
        (&skipped, 0, "3 passed, 0 failed, 1 skipped", false),
        (&failed, 101, "2 passed, 1 failed, 0 skipped", false),
        // It broke without a word, or before its last word, or had nothing to do.
        ("error: could not compile", 101, "0 passed, 1 failed, 0 skipped", false),
        (good, 101, "3 passed, 1 failed, 0 skipped", false),
        (&nothing, 0, "0 passed, 1 failed, 0 skipped", false),
    ] {
        assert_eq!(
            run("unit", printed, code),
            (format!("unit: {counted}"), well),
            "{printed}"
        );
    }
}

#[test]
fn a_check_that_fails_fails_its_part() {
    assert_eq!(run("lint", "", 0), ("lint: 2 passed, 0 failed, 0 skipped".into(), true));
    assert_eq!(
        run("lint", "", 1),
        ("lint: 0 passed, 2 failed, 0 skipped".into(), false)
    );
}

#[test]
fn a_part_that_is_not_there_is_wrong_use() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
    let output = Command::new(&script)
        .args(["--no-install", "everything"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let help = Command::new(script).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for part in ["format", "lint", "source", "unit", "golden", "host", "netns", "release"] {
        assert!(help.contains(&format!("\n  {part} ")), "{part}: {help}");
    }
}
