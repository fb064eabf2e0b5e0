//! The session in which a command was typed, so that an apply does not cut it off.

use std::{fs, net::SocketAddr, path::Path};

use crate::model::guard::Session;

/// What `sshd(8)` puts into the environment of a session: both ends, as `client port server port`.
const VARIABLE: &str = "SSH_CONNECTION";

/// The most ancestors that are asked.
const GENERATIONS: usize = 32;

/// The SSH session of this process, or of the nearest ancestor that has one: `sudo(8)` clears the environment. None
/// where the variable is empty.
pub(super) fn find() -> Option<Session> {
    match std::env::var(VARIABLE) {
        Ok(value) => parse(&value),
        Err(_) => of_ancestors(Path::new("/proc")),
    }
}

fn of_ancestors(proc: &Path) -> Option<Session> {
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..GENERATIONS {
        if process <= 1 {
            return None;
        }
        let directory = proc.join(process.to_string());
        // One of another user's may be unreadable; its parents need not be.
        let environment = fs::read(directory.join("environ")).unwrap_or_default();
        if let Some(session) = from_environment(&environment) {
            return Some(session);
        }
        process = parent(&fs::read_to_string(directory.join("stat")).ok()?)?;
    }
    None
}

fn from_environment(environment: &[u8]) -> Option<Session> {
    let variables = environment.split(|byte| *byte == 0);
    let mut texts = variables.filter_map(|variable| std::str::from_utf8(variable).ok());
    parse(texts.find_map(|variable| variable.strip_prefix(VARIABLE)?.strip_prefix('='))?)
}

/// The parent in `/proc/PID/stat`: the second word behind the name, which may hold anything (`proc_pid_stat(5)`).
fn parent(stat: &str) -> Option<u32> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(1)?.parse().ok()
}

fn parse(value: &str) -> Option<Session> {
    let mut words = value.split_whitespace();
    let mut end = || {
        Some(SocketAddr::new(
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ))
    };
    Some(Session {
        peer: end()?,
        local: end()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_where_it_is_told() {
        let session = Session {
            peer: "198.51.100.7:50022".parse().unwrap(),
            local: "192.0.2.1:22".parse().unwrap(),
        };
        assert_eq!(parse("198.51.100.7 50022 192.0.2.1 22"), Some(session));
        let environment = b"HOME=/root\0SSH_CONNECTION=198.51.100.7 50022 192.0.2.1 22\0X=\xff\0";
        assert_eq!(from_environment(environment), Some(session));
        for wrong in [
            "",
            "198.51.100.7 50022 192.0.2.1",
            "a b c d",
            "UNKNOWN 65535 UNKNOWN 65535",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(parse("2001:db8::7 50022 2001:db8::1 22").is_some());
        assert_eq!(
            from_environment(b"OTHER_SSH_CONNECTION=198.51.100.7 1 192.0.2.1 22\0"),
            None
        );
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse_the_search_for_parents() {
        assert_eq!(parent("4711 (evil) S 7) S 42 4711 4711 0"), Some(42));
        assert_eq!(parent("4711"), None);
    }
}
