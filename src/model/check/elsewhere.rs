//! Keys that people know from `wg-quick(8)`, `ip(8)` and systemd-networkd, and what to write here.

/// What stands for them here.
const SYNONYMS: [(&str, &str); 12] = [
    ("gateway", "via"),
    ("nexthop", "via"),
    ("src", "source"),
    ("prefsrc", "source"),
    ("dst", "to"),
    ("destination", "to"),
    ("device", "dev"),
    ("interface", "dev"),
    ("lookup", "table"),
    ("pref", "priority"),
    ("goto", "table"),
    ("mark", "fwmark"),
];

/// What `name` is called here.
pub(super) fn synonym(name: &str) -> Option<&'static str> {
    let name = plain(name);
    let meant = SYNONYMS.iter().find(|(elsewhere, _)| *elsewhere == name);
    meant.map(|(_, here)| *here)
}

/// Why there is nothing like `name` here, and what to do instead.
pub(super) fn absent(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match plain(name).as_str() {
        "protocol" | "proto" => (
            "the protocol id is not a document's to choose: 84 marks what is tunneld's, the others are the kernel's and FRR's",
            "remove it",
        ),
        "dns" => (
            "tunneld sets no name servers",
            "remove it, and set them where the system does",
        ),
        "preup" | "postup" | "predown" | "postdown" => (
            "there are no hooks",
            "remove it; forwarding, route, rule, clamp-mss and uplink say what hooks are used for",
        ),
        "saveconfig" => ("tunneld never writes the document", "remove it"),
        _ => return None,
    })
}

fn plain(name: &str) -> String {
    name.replace(['-', '_'], "").to_lowercase()
}
