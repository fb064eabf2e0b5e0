//! The UAPI's server behind a real socket.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use nix::{errno::Errno as SystemErrno, net::if_::if_nametoindex};

use super::super::{
    error::EngineError,
    uapi::{Clients, Target},
};
use crate::model::{
    fuzz::{answers, requests},
    types::Fwmark,
    uapi::{Errno, Request},
    wireguard::{Device, DeviceChange},
};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The mark that no device of this sort can have.
const REFUSED: Fwmark = Fwmark::new(16);

/// A device that refuses one change and does no other.
struct Stub;

impl Target for Stub {
    fn read(&self) -> Device {
        Device {
            listen_port: 51820,
            ..Device::default()
        }
    }

    fn change(&self, change: &DeviceChange) -> Result<(), EngineError> {
        match change.fwmark {
            Some(REFUSED) => Err(EngineError::new("set the mark", SystemErrno::EPERM)),
            _ => Ok(()),
        }
    }

    fn hand_over(&self, _: &Path) -> EngineError {
        EngineError::new("hand over", SystemErrno::ENOENT)
    }
}

/// The UAPI's server: each request has one answer, with the error number that the codec and the device give it, and
/// whoever speaks something else is hung up on.
pub fn server(bytes: &[u8]) {
    let Ok((mut ours, theirs)) = UnixStream::pair() else {
        return;
    };
    assert!(ours.set_read_timeout(Some(PATIENCE)).is_ok());
    Clients::new(Stub).admit(theirs);
    // The server may have heard enough before the end.
    let _ = ours.write_all(bytes).and_then(|()| ours.shutdown(Shutdown::Write));
    let mut said = Vec::new();
    let read = ours.read_to_end(&mut said).map_err(|error| error.kind());
    // What it did not care to read is lost with a reset.
    assert!(
        matches!(read, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)),
        "{read:?}"
    );
    let said: Vec<_> = answers(&said)
        .into_iter()
        .map(|answer| answer.map(|answer| answer.errno))
        .collect();
    let expected = expected(bytes);
    assert!(
        read.is_err() || said.len() == expected.len(),
        "{said:?} to {expected:?}"
    );
    for (said, expected) in said.iter().zip(&expected) {
        assert_eq!(said.as_ref(), Ok(expected));
    }
}

/// The error numbers of the answers to what stands in a text.
fn expected(text: &[u8]) -> Vec<i32> {
    let mut numbers = Vec::new();
    for request in requests(text, &|name| if_nametoindex(name).ok()) {
        let number = match request {
            Ok(Request::Get | Request::Version) => 0,
            Ok(Request::Set(change)) => Stub.change(&change).map_or_else(|error| error.errno(), |()| 0),
            Ok(Request::Handover(path)) => Stub.hand_over(&path).errno(),
            Err(malformed) => malformed.errno.number(),
        };
        numbers.push(number);
        if [Errno::Protocol.number(), Errno::TooLong.number()].contains(&number) {
            return numbers;
        }
    }
    numbers
}
