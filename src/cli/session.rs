//! The session in which a command was typed, so that an apply does not cut it off.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV6},
    path::Path,
};

use nix::net::if_::if_nametoindex;

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
    let mut end = || end(words.next()?, words.next()?);
    Some(Session {
        peer: end()?,
        local: end()?,
    })
}

/// One end. An address of a link has that link's name behind it, or its index (`getnameinfo(3)`).
fn end(address: &str, port: &str) -> Option<SocketAddr> {
    let port = port.parse().ok()?;
    let Some((address, link)) = address.split_once('%') else {
        return Some(SocketAddr::new(address.parse().ok()?, port));
    };
    let index = if_nametoindex(link).ok().or_else(|| link.parse().ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index).into())
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
            "fe80::7%no-such-link 50022 fe80::1%lo 22",
            "192.0.2.7%lo 50022 192.0.2.1 22",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(parse("2001:db8::7 50022 2001:db8::1 22").is_some());
        let of_a_link = parse("fe80::7%lo 50022 fe80::1%1 22").unwrap();
        assert_eq!(of_a_link.peer, "[fe80::7%1]:50022".parse().unwrap());
        assert_eq!(of_a_link.local, "[fe80::1%1]:22".parse().unwrap());
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
