//! Tunnels between any two implementations of WireGuard, configured by `wg(8)`.

use super::Namespace;

/// What carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underlay {
    V4,
    V6,
}

/// Two namespaces with a tunnel between them, each other's peers at once: 10.9.0.1 and fd09::1 with what the first
/// of `starts` made of the name `wg0`, 10.9.0.2 and fd09::2 with the second.
pub(crate) fn between(starts: [impl Fn(&Namespace); 2], underlay: Underlay) -> [Namespace; 2] {
    let namespaces = [Namespace::new(), Namespace::new()];
    namespaces[0].link("eth0", &namespaces[1], "eth0");
    let keys = namespaces.each_ref().map(|namespace| namespace.run(["wg", "genkey"]));
    let preshared = namespaces[0].run(["wg", "genpsk"]);
    for (index, (namespace, start)) in namespaces.iter().zip(starts).enumerate() {
        let (own, other) = (index + 1, 2 - index);
        namespace.ip(&format!("addr add 192.0.2.{own}/24 dev eth0"));
        namespace.ip(&format!("addr add 2001:db8::{own}/64 dev eth0 nodad"));
        start(namespace);
        let endpoint = match underlay {
            Underlay::V4 => format!("192.0.2.{other}:51820"),
            Underlay::V6 => format!("[2001:db8::{other}]:51820"),
        };
        let public = namespace.run(["sh", "-c", &format!("echo '{}' | wg pubkey", keys[1 - index].trim())]);
        let configuration = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\nPresharedKey = {}\n\
             Endpoint = {endpoint}\nAllowedIPs = 10.9.0.{other}/32, fd09::{other}/128\n",
            keys[index].trim(),
            public.trim(),
            preshared.trim()
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), configuration).unwrap();
        namespace.run(["wg", "setconf", "wg0", file.path().to_str().unwrap()]);
        namespace.ip(&format!("addr add 10.9.0.{own}/24 dev wg0"));
        namespace.ip(&format!("addr add fd09::{own}/64 dev wg0 nodad"));
        namespace.ip("link set wg0 up mtu 1420");
    }
    namespaces
}
