//! The clock's floor as a file of its own: whoever sets the clock at boot reads nothing else of the store.

use std::{fs, path::Path};

use super::{error::StoreError, export};

/// Name of the file in the store's directory: seconds since 1970, and the boot whose clock showed them.
const FILE: &str = "clock";

/// The last time that a daemon with its store in `directory` stored, in seconds since 1970, with the boot whose clock
/// showed it; none if there was none.
pub fn clock_floor(directory: &Path) -> Option<(u64, String)> {
    let text = fs::read_to_string(directory.join(FILE)).ok()?;
    let (time, boot) = text.trim_end().split_once(' ')?;
    Some((time.parse().ok()?, boot.to_owned()))
}

/// Keeps another one.
pub(super) fn write(directory: &Path, time: u64, boot: &str) -> Result<(), StoreError> {
    export::replace(&directory.join(FILE), &format!("{time} {boot}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_time() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(clock_floor(directory.path()), None);
        write(directory.path(), 1_800_000_000, "a-boot").unwrap();
        assert_eq!(clock_floor(directory.path()), Some((1_800_000_000, "a-boot".into())));
        for broken in ["", "x y", "1800000000\n", "-5 x", "18446744073709551616 x"] {
            fs::write(directory.path().join(FILE), broken).unwrap();
            assert_eq!(clock_floor(directory.path()), None, "{broken}");
        }
    }
}
