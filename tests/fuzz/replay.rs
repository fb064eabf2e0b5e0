//! The fuzz targets without a fuzzer: every entry of their corpora, and changes to them that a seed determines.
//! Compiled into the library's unit tests, see README.md.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use proptest::{
    prelude::{Rng, RngCore},
    test_runner::{RngAlgorithm, TestRng},
};

/// A target's entrance.
type Target = fn(&[u8]);

/// Writes an input down if it is a finding.
struct Witness<'a> {
    target: &'a str,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/fuzz-finding-{}", self.target));
            let written = fs::write(&path, self.input).map_or_else(|error| error.to_string(), |()| "".into());
            eprintln!("the input is in {} {written}", path.display());
        }
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The files of a directory, in the order of their names.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries: io::Result<Vec<_>> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| Ok(entry?.path()))
        .collect();
    let mut files = entries.unwrap();
    files.sort();
    files
}

/// Changes some bytes, drops some, doubles some, and takes some from another entry: what libFuzzer does, in short.
fn mutated(corpus: &[Vec<u8>], random: &mut TestRng) -> Vec<u8> {
    let mut input = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..16)).min(input.len());
        match random.random_range(0..6) {
            0 => input[at..end]
                .iter_mut()
                .for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
            1 => input[at..end]
                .iter_mut()
                .for_each(|byte| *byte = random.next_u32() as u8),
            2 => drop(input.drain(at..end)),
            3 => input.extend_from_within(at..end),
            4 => input.truncate(end),
            _ => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                input.splice(at..end, other[from..].iter().copied().take(64));
            }
        }
    }
    input
}

fn replay(name: &str, target: Target, mutations: usize) {
    let corpus: Vec<_> = files(&here().join("corpus").join(name))
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(!corpus.is_empty());
    let run = |input: &[u8]| {
        let _witness = Witness { target: name, input };
        target(input);
    };
    corpus.iter().for_each(|input| run(input));
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for _ in 0..mutations {
        run(&mutated(&corpus, &mut random));
    }
}

/// A test for each target: its name, its entrance, and how many changed inputs it gets.
macro_rules! targets {
    ($($name:ident, $target:path, $mutations:expr;)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), $target, $mutations);
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    control, crate::control::fuzz::control, 200;
    datagrams, crate::engine::fuzz::datagrams, 200;
    document, crate::model::fuzz::document, 1000;
    netlink, crate::kernel::fuzz::netlink, 5000;
    offload, crate::engine::fuzz::offload, 500;
    store, crate::store::fuzz::store, 500;
    uapi, crate::model::fuzz::uapi, 2000;
    uapi_server, crate::engine::fuzz::server, 500;
    vici, crate::ike::vici::fuzz::vici, 5000;
}

#[test]
fn every_target_is_replayed() {
    let stems = |files: Vec<PathBuf>| -> Vec<String> {
        let stems = files
            .iter()
            .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned));
        stems.collect()
    };
    assert_eq!(stems(files(&here().join("fuzz_targets"))), NAMES);
    assert_eq!(stems(files(&here().join("corpus"))), NAMES);
    let manifest = fs::read_to_string(here().join("Cargo.toml")).unwrap();
    let built: Vec<_> = manifest
        .split("[[bin]]\nname = \"")
        .skip(1)
        .filter_map(|bin| bin.split('"').next())
        .collect();
    assert_eq!(built, NAMES);
}
