//! Where private and preshared keys come from.

use std::{collections::HashMap, ffi::OsStr, path::Path as FilePath};

use super::{
    super::{desired::PrivateKeySource, document::WireGuard, problem::Path, types::InterfaceName},
    Resolver,
};

impl Resolver<'_> {
    pub(super) fn private_key(&mut self, tunnel: &WireGuard, path: &Path) -> PrivateKeySource {
        let sources = [
            ("private-key-file", tunnel.private_key_file.is_some()),
            ("private-key-credential", tunnel.private_key_credential.is_some()),
            ("private-key-generated", tunnel.private_key_generated.is_some()),
        ];
        for (key, _) in sources.iter().filter(|(_, named)| *named).skip(1) {
            let reason = "the private key comes from one place: a file, a credential, or what was generated";
            self.refuse(path.clone().key(key), reason, "remove all but one");
        }
        if let Some(file) = &tunnel.private_key_file {
            self.check_file(file, path.clone().key("private-key-file"));
            PrivateKeySource::File(file.clone())
        } else if let Some(name) = &tunnel.private_key_credential {
            let bad = |c: char| c == '/' || c.is_control();
            if name.contains(bad) || name == "." || name == ".." {
                let reason = "a credential's name is that of a file without its directory";
                let fix = "write the name before the colon of LoadCredential=";
                self.refuse(path.clone().key("private-key-credential"), reason, fix);
            }
            PrivateKeySource::Credential(name.clone())
        } else {
            PrivateKeySource::Generated(kept_as(tunnel).clone())
        }
    }

    /// Two tunnels with one key would be one peer to everybody else.
    pub(super) fn generated_keys(&mut self) {
        let mut owners = HashMap::new();
        let tunnels = self.document.wireguard.iter().enumerate();
        let generated =
            tunnels.filter(|(_, tunnel)| tunnel.private_key_file.is_none() && tunnel.private_key_credential.is_none());
        let mut shared = Vec::new();
        for (index, tunnel) in generated {
            if let Some((first, other)) = owners.insert(kept_as(tunnel), (index, tunnel)) {
                // One of the two names the other's: that is where the mistake is.
                let (at, whose) = if tunnel.private_key_generated.is_some() {
                    (index, &other.name)
                } else if other.private_key_generated.is_some() {
                    (first, &tunnel.name)
                } else {
                    // They have one name, which is told elsewhere.
                    continue;
                };
                shared.push((
                    at,
                    format!("this is the key of {whose}, and a key belongs to one tunnel"),
                ));
            }
        }
        for (index, reason) in shared {
            let place = Path::new("wireguard").index(index).key("private-key-generated");
            self.refuse(
                place,
                reason,
                "remove it, or give the other tunnel a key of its own the same way",
            );
        }
    }

    pub(super) fn check_file(&mut self, file: &FilePath, path: Path) {
        let zero = |name: &OsStr| name.as_encoded_bytes().contains(&0);
        if !file.is_absolute() {
            let fix = "write the whole path from /, such as /etc/tunneld/wg0.key";
            self.refuse(path, "a key file needs an absolute path", fix);
        } else if zero(file.as_os_str()) {
            self.refuse(path, "a path has a zero byte", "write the file's path");
        }
    }
}

/// The name under which the generated key of a tunnel is kept.
fn kept_as(tunnel: &WireGuard) -> &InterfaceName {
    tunnel.private_key_generated.as_ref().unwrap_or(&tunnel.name)
}
