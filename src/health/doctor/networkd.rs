//! What systemd-networkd's configuration says about routes and rules of others (`networkd.conf(5)`).

use std::{collections::BTreeMap, fs, path::Path};

/// Where a drop-in of ours belongs.
pub(super) const OUR_DROP_IN: &str = "/etc/systemd/networkd.conf.d/tunneld.conf";

/// Folders in order of precedence.
const FOLDERS: [&str; 4] = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];

/// Whether networkd takes foreign objects for its own, and deletes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// `ManageForeignRoutes=`.
    pub routes: bool,
    /// `ManageForeignRoutingPolicyRules=`.
    pub rules: bool,
}

/// Reads the configuration of the file system at `root`: the first main file, then every drop-in in the order
/// of their names, of which the first folder that has one counts.
pub(super) fn read(root: &Path) -> Foreign {
    let mut foreign = Foreign {
        routes: true,
        rules: true,
    };
    let main = FOLDERS.iter().map(|folder| root.join(folder).join("networkd.conf"));
    let mut drop_ins = BTreeMap::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder).join("networkd.conf.d"));
        for entry in entries.into_iter().flatten().flatten() {
            if Path::new(&entry.file_name())
                .extension()
                .is_some_and(|end| end == "conf")
            {
                drop_ins.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    let first = main.into_iter().find(|path| path.exists());
    for path in first.into_iter().chain(drop_ins.into_values()) {
        foreign.follow(&fs::read_to_string(path).unwrap_or_default());
    }
    foreign
}

impl Foreign {
    fn follow(&mut self, text: &str) {
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let setting = match (section, key.trim()) {
                ("[Network]", "ManageForeignRoutes") => &mut self.routes,
                ("[Network]", "ManageForeignRoutingPolicyRules") => &mut self.rules,
                _ => continue,
            };
            match value.trim().to_ascii_lowercase().as_str() {
                "1" | "yes" | "y" | "true" | "t" | "on" | "" => *setting = true,
                "0" | "no" | "n" | "false" | "f" | "off" => *setting = false,
                _ => {}
            }
        }
    }
}
