//! An engine that systemd starts for whoever connects to a socket of its own (`systemd.socket(5)`, `Accept=yes`):
//! outside the daemon's control group, with a sandbox of its own, and without a right to start services. The
//! connection is the engine's standard input and output; it says in one line which engine is wanted, and hears
//! in one how that went.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    time::Duration,
};

use nix::{
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
    unistd::{dup2_stdin, dup2_stdout},
};

use super::{
    error::EngineError,
    launch::{MTU, Options},
};

/// Where systemd listens (`board/systemd/tunneld-engine.socket`).
pub(super) const SOCKET: &str = "/run/tunneld-engine.sock";

/// The longest request: a name, a number and an alias of up to 255 bytes (`IFALIASZ`).
const MOST_BYTES: u64 = 512;
/// How long whoever connects may take to say what is wanted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which engine is wanted, in one line.
pub(super) fn request(options: &Options) -> String {
    let alias = options.alias.as_deref().unwrap_or_default();
    format!("{} {} {alias}\n", options.name, options.mtu)
}

/// What the connection behind standard input wants.
pub(super) fn wanted() -> Result<Options, EngineError> {
    let failed = |error: io::Error| EngineError::new("hear which engine is wanted", error);
    let patience = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX));
    // A connection that says nothing must not keep a process.
    setsockopt(&io::stdin(), ReceiveTimeout, &patience).map_err(|error| failed(error.into()))?;
    let mut line = Vec::new();
    let mut input = BufReader::new(io::stdin().lock().take(MOST_BYTES));
    input.read_until(b'\n', &mut line).map_err(failed)?;
    parse(&line).ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, "this is no request")))
}

fn parse(line: &[u8]) -> Option<Options> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let mut words = line.splitn(3, ' ');
    let (name, mtu, alias) = (words.next()?, words.next()?, words.next()?);
    let mtu = mtu.parse().ok().filter(|mtu| MTU.contains(&i64::from(*mtu)))?;
    let plain = alias.len() < 256 && !alias.contains(char::is_control);
    plain.then_some(Options {
        alias: Some(alias.to_owned()).filter(|alias| !alias.is_empty()),
        ..Options::new(name.parse().ok()?, mtu)
    })
}

/// Lets go of the connection.
pub(super) fn hang_up() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_arrives() {
        for alias in [None, Some("tunneld".to_owned()), Some("two words".to_owned())] {
            let options = Options {
                alias,
                ..Options::new("wg-a.1".parse().unwrap(), 1380)
            };
            assert_eq!(parse(request(&options).as_bytes()), Some(options));
        }
    }

    #[test]
    fn nothing_else_is_a_request() {
        for line in [
            "",
            "\n",
            "wg0 1420 tunneld",
            "wg0 1420\n",
            "wg0 575 \n",
            "wg0 65536 \n",
            "wg0 -1 \n",
            "../wg0 1420 \n",
            "name-that-is-too-long 1420 \n",
            " 1420 \n",
            "wg0 1420 a\u{1b}[2J\n",
            &format!("wg0 1420 {}\n", "x".repeat(256)),
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse(b"wg0 1420 \xff\n"), None);
    }
}
