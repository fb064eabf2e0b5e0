//! Tests of the source itself: rooms, licences, and documents that follow the code.

#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod documentation;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod units;

#[cfg(test)]
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every Rust file below a folder of the project, tests too.
#[cfg(test)]
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut files = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 40);
    files
}
