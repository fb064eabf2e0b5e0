//! One line that says how the start of an engine went: over a pipe from the child in the background, over the
//! connection from the one that systemd started.

use std::io;

use super::{error::EngineError, launch::Options};

/// What is said when the engine's socket accepts; anything else is the kind of error and its words.
pub(super) const READY: &str = "ready";
/// The longest line: an attempt, a path and the kernel's words.
pub(super) const MOST_BYTES: u64 = 4096;

/// Kinds of error that make a difference to whoever starts an engine.
const KINDS: [(&str, io::ErrorKind); 3] = [
    ("busy", io::ErrorKind::ResourceBusy),
    ("running", io::ErrorKind::AddrInUse),
    ("forbidden", io::ErrorKind::PermissionDenied),
];

/// An error as it is said.
pub(super) fn complaint(error: &EngineError) -> String {
    let kind = error.source.kind();
    let word = KINDS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("other", |(word, _)| word);
    format!("{word} {error}")
}

/// What was said, as whoever asked for the start reports it.
///
/// # Errors
/// What kept the engine from starting.
pub(super) fn heard(options: &Options, said: &str) -> io::Result<()> {
    let said = said.trim_end();
    if said == READY {
        return Ok(());
    }
    let (word, reason) = said.split_once(' ').unwrap_or(("", "its process ended without a word"));
    let kind = KINDS.iter().find(|(known, _)| *known == word);
    let kind = kind.map_or(io::ErrorKind::Other, |(_, kind)| *kind);
    let reason = reason.strip_prefix(&attempt(options)).unwrap_or(reason);
    Err(io::Error::new(kind, reason.trim_start_matches(": ")))
}

/// The attempt that every error at the start is about.
pub(super) fn attempt(options: &Options) -> String {
    format!("start the engine of {}", options.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_keeps_its_kind_and_is_said_once() {
        let options = Options::new("wg0".parse().unwrap(), 1420);
        for (kind, said) in [
            (io::ErrorKind::AddrInUse, "already running, pid 7"),
            (io::ErrorKind::PermissionDenied, "not permitted"),
            (io::ErrorKind::Other, "something else"),
        ] {
            let error = EngineError::new(attempt(&options), io::Error::new(kind, said));
            let heard = heard(&options, &complaint(&error)).unwrap_err();
            assert_eq!((heard.kind(), heard.to_string().as_str()), (kind, said));
        }
        let error = EngineError::new("make the interface wg0", nix::errno::Errno::EBUSY);
        let heard = heard(&options, &complaint(&error)).unwrap_err();
        assert_eq!(heard.kind(), io::ErrorKind::ResourceBusy);
        assert!(
            heard
                .to_string()
                .starts_with("make the interface wg0: Device or resource busy")
        );
    }

    #[test]
    fn only_the_word_is_success() {
        let options = Options::new("wg0".parse().unwrap(), 1420);
        assert!(heard(&options, "ready\n").is_ok());
        for said in ["", "\n", "read", "ready or not"] {
            assert!(heard(&options, said).is_err(), "{said}");
        }
    }
}
