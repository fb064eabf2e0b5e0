//! How a piece of a document is repeated to whoever wrote it: short, on one line, and without anything
//! that looks like a key.

/// How many characters of a value are repeated.
const MOST_SHOWN: usize = 60;

/// A value as it is written, fit for a terminal and a log. `public` values may look like a key.
pub(super) fn shown(source: &str, public: bool) -> String {
    if !public && looks_secret(source) {
        return "(hidden: looks like a key)".to_owned();
    }
    let mut text = String::new();
    for (position, character) in source.trim().chars().enumerate() {
        if position == MOST_SHOWN {
            text.push('…');
            break;
        }
        match character {
            '"' | '\'' | '\\' => text.push(character),
            other => text.extend(other.escape_debug()),
        }
    }
    text
}

/// A key of a table: in quotes if it needs them in TOML.
pub(super) fn shown_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let text = shown(name, false);
    if !name.is_empty() && text.chars().all(bare) {
        text
    } else {
        format!("\"{text}\"")
    }
}

/// Whether some part of `text` could be 32 secret bytes: base64 (with a character more or less, as after
/// a slip of the mouse), or hexadecimal.
fn looks_secret(text: &str) -> bool {
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    text.split_inclusive(|c: char| !base64(c)).any(|piece| {
        let run = piece.trim_end_matches(|c: char| !base64(c));
        let hexadecimal = run.len() >= 64 && run.chars().all(|c| c.is_ascii_hexdigit());
        let mixed = run.contains(|c: char| c.is_ascii_lowercase()) && run.contains(|c: char| c.is_ascii_uppercase());
        // A long path made of letters and slashes is no key.
        let key = run.len() >= 40 && mixed && (piece.ends_with('=') || !run.starts_with('/'));
        hexadecimal || key
    })
}

/// The candidate that was most likely meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['-', '_', ' '], "").to_lowercase();
    let name = plain(&name.chars().take(MOST_SHOWN).collect::<String>());
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        // wg-quick's PersistentKeepalive is our keepalive, its PrivateKey our private-key-file.
        let shorter = name.len().min(candidate.len());
        if shorter >= 5 && (name.contains(&candidate) || candidate.contains(&name)) {
            return 1;
        }
        strsim::damerau_levenshtein(&name, &candidate)
    };
    candidates
        .map(|candidate| (distance(candidate), candidate.len(), candidate))
        .filter(|(distance, length, _)| *distance <= (*length).max(name.len()) / 3)
        .min()
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

    #[test]
    fn what_looks_like_a_key_is_not_repeated() {
        let hexadecimal = "0123456789abcdef".repeat(4);
        for secret in [
            KEY.to_owned(),
            format!("\"{KEY}\""),
            format!("/etc/{KEY}"),
            KEY.trim_end_matches('=').to_owned(),
            format!("x{KEY}"),
            format!("[1, \"{KEY}\"]"),
            format!("private={}", hexadecimal),
        ] {
            assert!(!shown(&secret, false).contains("AQID"), "{secret}");
            assert!(!shown(&secret, false).contains("89abc"), "{secret}");
        }
        assert_eq!(shown(KEY, true), KEY);
        for harmless in ["/etc/tunneld/keys/of/a/long/path/to/some/place", "20.20.20.5/24", "wg0"] {
            assert_eq!(shown(harmless, false), harmless);
        }
    }

    #[test]
    fn values_are_short_and_on_one_line() {
        assert_eq!(shown("a\nb\u{1b}[31m\u{202e}", false), "a\\nb\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&"é ".repeat(100), false).chars().count(), 61);
    }

    #[test]
    fn the_nearest_key() {
        let known = [
            "allowed-ips",
            "keepalive",
            "private-key-credential",
            "private-key-file",
            "public-key",
            "name",
        ];
        for (written, meant) in [
            ("allowed_ips", "allowed-ips"),
            ("AllowedIPs", "allowed-ips"),
            ("PersistentKeepalive", "keepalive"),
            ("PrivateKey", "private-key-file"),
            ("pubic-key", "public-key"),
            ("nmae", "name"),
        ] {
            assert_eq!(nearest(written, known.into_iter()), Some(meant), "{written}");
        }
        assert_eq!(nearest("dns", known.into_iter()), None);
    }
}
