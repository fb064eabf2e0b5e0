//! Settings below `/proc/sys`, those of the calling thread's network namespace (`sysctl(5)`,
//! `proc_sys_net(5)`). They answer from memory, so they are read in place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path, PathBuf},
};

use nix::errno::Errno;

use super::socket::NetlinkError;
use crate::model::desired::Sysctl;

/// Reads settings, their values trimmed; those that do not exist are left out.
pub(crate) fn read(wanted: &BTreeSet<Sysctl>) -> Result<BTreeMap<Sysctl, String>, (Sysctl, NetlinkError)> {
    let mut values = BTreeMap::new();
    for sysctl in wanted {
        match path(sysctl).and_then(|path| Ok(fs::read_to_string(path)?)) {
            Ok(value) => {
                values.insert(sysctl.clone(), value.trim().to_owned());
            }
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err((sysctl.clone(), error)),
        }
    }
    Ok(values)
}

/// Writes a setting.
pub(crate) fn write(sysctl: &Sysctl, value: &str) -> Result<(), NetlinkError> {
    Ok(fs::write(path(sysctl)?, value)?)
}

/// Where a setting is: below `/proc/sys` and nowhere else.
fn path(sysctl: &Sysctl) -> Result<PathBuf, NetlinkError> {
    let below = Path::new(sysctl.path());
    if below.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(Path::new("/proc/sys").join(below))
    } else {
        Err(io::Error::from_raw_os_error(Errno::EINVAL as i32).into())
    }
}
