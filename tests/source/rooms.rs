//! The dependency rule of `lib.rs`, read from the `use` lines and paths of every file.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::rust_files;

/// Each room with the rooms it may import. What is not listed here is a new room: add it on purpose.
const RULE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("logging", &[]),
    ("store", &["model"]),
    ("metrics", &["model"]),
    ("kernel", &["model"]),
    ("engine", &["model"]),
    ("health", &["model"]),
    ("ike", &["model"]),
    ("fake", &["model"]),
    ("control", &["model"]),
    (
        "assembly",
        &["model", "store", "metrics", "kernel", "engine", "health", "fake"],
    ),
    (
        "daemon",
        &[
            "model", "store", "metrics", "kernel", "engine", "health", "assembly", "control", "logging",
        ],
    ),
    (
        "cli",
        &[
            "model", "engine", "health", "kernel", "assembly", "daemon", "control", "logging", "metrics", "store",
        ],
    ),
    ("main", &["cli"]),
];

/// What the pure core must not reach.
const IMPURE: &[&str] = &[
    "tokio",
    "sled",
    "rtnetlink",
    "netlink_",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "SystemTime::now",
    "Instant::now",
    "std::thread",
    "std::process",
    "std::env",
    "rustix",
    "nix::",
];

fn sources() -> Vec<(String, PathBuf)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            // Tests may introduce anybody: `tests.rs`, `…_tests.rs`, or whatever is below `tests/`.
            let test = path
                .file_stem()
                .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
            if path.is_dir() && !test {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !test {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let room = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    files
        .into_iter()
        .map(|path| (room(&path), path))
        .filter(|(room, _)| room != "lib")
        .collect()
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    production
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Rooms that a piece of code names behind `crate::` (or `tunneld::` in the binary).
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mark in ["crate::", "tunneld::"] {
        for (at, _) in code.match_indices(mark) {
            let rest = &code[at + mark.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                // `use crate::{a::b, c}`: the first word of each branch at depth one.
                Some(list) => {
                    let mut depth = 0;
                    let end = list.find('}').map_or(list.len(), |_| {
                        list.char_indices()
                            .find(|(_, c)| {
                                depth += match c {
                                    '{' => 1,
                                    '}' => -1,
                                    _ => 0,
                                };
                                depth < 0
                            })
                            .map_or(list.len(), |(i, _)| i)
                    });
                    let mut nested = 0;
                    list[..end]
                        .split(|c| {
                            nested += match c {
                                '{' => 1,
                                '}' => -1,
                                _ => 0,
                            };
                            c == ',' && nested == 0
                        })
                        .collect()
                }
                None => vec![rest],
            };
            for name in names {
                let word: String = name
                    .trim()
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                if !word.is_empty() {
                    found.insert(word);
                }
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_what_the_rule_allows() {
    let rooms: BTreeSet<&str> = RULE.iter().map(|(room, _)| *room).collect();
    let mut wrong = Vec::new();
    for (room, path) in sources() {
        let Some((_, allowed)) = RULE.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room} is not in the rule", path.display()));
            continue;
        };
        for import in imports(&code(&path)) {
            if import != room && rooms.contains(import.as_str()) && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: {room} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for (_, path) in sources().into_iter().filter(|(room, _)| room == "model") {
        let code = code(&path);
        wrong.extend(
            IMPURE
                .iter()
                .filter(|name| code.contains(*name))
                .map(|name| format!("{}: {name}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_store_names_sled() {
    let users: Vec<_> = sources()
        .into_iter()
        .filter(|(room, path)| room != "store" && code(path).contains("sled::"))
        .map(|(_, path)| path)
        .collect();
    assert!(users.is_empty(), "{users:?}");
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let code = "use crate::model::x; use crate::{control::{client, server}, store}; crate::kernel::probe()";
    let want: BTreeSet<String> = ["model", "control", "store", "kernel"].map(String::from).into();
    assert_eq!(imports(code), want);
}

#[test]
fn no_file_is_longer_than_one_can_keep_in_mind() {
    const MOST: usize = 400;
    let long: Vec<String> = rust_files("src")
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap(), path))
        .map(|(text, path)| (text.lines().filter(|line| !line.trim().is_empty()).count(), path))
        .filter(|(lines, _)| *lines > MOST)
        .map(|(lines, path)| format!("{}: {lines}", path.display()))
        .collect();
    assert!(long.is_empty(), "split by meaning: {long:?}");
}
