//! What the demo's appliances are told, and where things are.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand_core::{OsRng, RngCore};
use zeroize::Zeroizing;

use crate::model::types::{PrivateKey, PublicKey, Secret};

/// The directory of everything, in the stage's own tmpfs.
pub(super) const ROOT: &str = "/run/tunneld-demo";

/// The address behind the far appliance that all the traffic is for.
pub(super) const TARGET: &str = "20.20.20.20";

/// The TCP port of the bulk transfer.
pub(super) const BULK_PORT: u16 = 5201;

/// The topology, as the demo prints it.
pub(super) const PICTURE: &str = r"
   left                                  right                               host
  ┌──────────────────┐                  ┌───────────────────────────┐       ┌─────────────────┐
  │ uplink 192.0.2.1 ├──── underlay ────┤ 192.0.2.2 uplink          │       │                 │
  │                  │                  │            lan 20.20.20.1 ├───────┤ 20.20.20.20 lan │
  │ wg0   10.10.10.1 ╞════ WireGuard ═══╡ 10.10.10.2   wg0          │       │                 │
  └──────────────────┘                  └───────────────────────────┘       └─────────────────┘
     20.20.20.0/24 dev wg0 ─────────────────────────────────────────────────────────▶
";

/// One appliance of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) name: &'static str,
    underlay: &'static str,
    inner: &'static str,
    /// What the other side may send from, and is sent.
    networks: &'static str,
}

/// The near one.
pub(super) const LEFT: Site = Site {
    name: "left",
    underlay: "192.0.2.1",
    inner: "10.10.10.1",
    networks: "",
};
/// The far one, with the network behind it.
pub(super) const RIGHT: Site = Site {
    name: "right",
    underlay: "192.0.2.2",
    inner: "10.10.10.2",
    networks: ", \"20.20.20.0/24\"",
};

impl Site {
    /// Its directory.
    pub(super) fn directory(&self) -> PathBuf {
        Path::new(ROOT).join(self.name)
    }

    /// Its control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// Makes its directory and its private key; returns the public one.
    pub(super) fn prepare(&self) -> io::Result<PublicKey> {
        fs::create_dir_all(self.directory())?;
        let mut bytes = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(bytes.as_mut());
        let key = PrivateKey::new(Secret::from_bytes(*bytes));
        let text = Zeroizing::new(BASE64.encode(key.expose()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.key_file())?;
        file.write_all(text.as_bytes())?;
        Ok(key.public_key())
    }

    fn key_file(&self) -> PathBuf {
        self.directory().join("wg0.key")
    }

    /// The document that makes the tunnel to `peer`, whose public key is `key`.
    pub(super) fn document(&self, peer: &Self, key: &PublicKey, backend: &str) -> String {
        let Self { name, inner, .. } = self;
        let Site {
            name: peer_name,
            underlay,
            inner: peer_inner,
            networks,
            ..
        } = peer;
        let key_file = self.key_file();
        format!(
            "version = 1

[appliance]
name = \"{name}\"

[forwarding]
ipv4 = true

[[wireguard]]
name = \"wg0\"
addresses = [\"{inner}/30\"]
listen-port = 51820
private-key-file = \"{}\"
backend = \"{backend}\"

[[wireguard.peers]]
name = \"{peer_name}\"
public-key = \"{key}\"
endpoint = \"{underlay}:51820\"
allowed-ips = [\"{peer_inner}/32\"{networks}]
keepalive = 25
",
            key_file.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::validate;

    #[test]
    fn the_documents_have_no_errors() {
        let key = PrivateKey::new(Secret::from_bytes([7; 32])).public_key();
        for document in [
            LEFT.document(&RIGHT, &key, "auto"),
            RIGHT.document(&LEFT, &key, "userspace"),
        ] {
            validate(&document).unwrap_or_else(|errors| panic!("{errors:?}\n{document}"));
        }
    }
}
