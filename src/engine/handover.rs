//! From one executable to the next without letting go: the process becomes the new program (`execve(2)`) with
//! its process id, and finds behind its standard input what the old one had: the interface, the sockets and
//! the configuration (`unix(7)` SCM_RIGHTS). Packets wait in the kernel's queues meanwhile. Session keys cannot
//! be carried: `Tunn` does not give them out.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs::File,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Seek, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, net::UnixStream},
    },
    path::Path,
};

use nix::unistd::{dup2_stdin, execv};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};

use super::udp::Sockets;
use crate::model::{
    uapi::{AnswerParser, format_device},
    wireguard::Device,
};

/// The command line's word for a process that has a predecessor.
const TAKE_OVER: &str = "--take-over";
/// Interface, listener, state, and a socket for each family.
const DESCRIPTORS: usize = 5;
/// What is said along with the descriptors: which families there are.
const V4: u8 = 1;
const V6: u8 = 2;

/// What one program leaves to the next.
#[derive(Debug)]
pub(super) struct Estate {
    /// The TUN.
    pub(super) tun: OwnedFd,
    /// The UAPI's socket.
    pub(super) listener: OwnedFd,
    /// The underlay's sockets.
    pub(super) sockets: Sockets,
    /// The configuration, with counters and handshake times.
    pub(super) device: Device,
}

/// Becomes `executable`, with this process's own arguments and `words`. Returns only if that fails; then nothing has changed.
pub(super) fn bequeath(
    executable: &Path,
    words: &[OsString],
    tun: BorrowedFd<'_>,
    listener: BorrowedFd<'_>,
    sockets: &Sockets,
    device: &Device,
) -> io::Error {
    let bequeathed = state(device).and_then(|state| {
        let (ours, theirs) = UnixStream::pair()?;
        let families = [(sockets.v4(), V4), (sockets.v6(), V6)];
        let present = families
            .iter()
            .filter_map(|(socket, family)| Some(((*socket)?, *family)));
        let (sockets, families): (Vec<_>, Vec<_>) = present.unzip();
        let descriptors = [vec![tun, listener, state.as_fd()], sockets].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let said = [families.iter().sum()];
        sendmsg(&ours, &[IoSlice::new(&said)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(theirs)
    });
    let became = bequeathed.and_then(|theirs| {
        let own = std::env::args_os().skip(1).filter(|word| word != TAKE_OVER);
        let words = own.chain(words.iter().cloned()).chain([TAKE_OVER.into()]);
        become_program(executable, words, theirs.as_fd())
    });
    match became {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Executes a program with these words and this standard input. Not by [`std::process::Command`]: that leaves SIGPIPE
/// deadly when it fails, so that the next client who hangs up would take the engine along.
fn become_program(
    executable: &Path,
    words: impl Iterator<Item = OsString>,
    stdin: BorrowedFd<'_>,
) -> io::Result<Infallible> {
    let words = [executable.as_os_str().to_owned()].into_iter().chain(words);
    let words: Vec<CString> = words
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<_, _>>()?;
    let path = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let before = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(stdin)?;
    let became = execv(path, &words);
    dup2_stdin(before)?;
    Ok(became?)
}

/// Takes what a predecessor left behind standard input.
///
/// # Errors
/// When there was none.
pub(super) fn inherit() -> io::Result<Estate> {
    let stdin = io::stdin();
    let mut said = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(&stdin, &mut [IoSliceMut::new(&mut said)], &mut ancillary, flags)?;
    let mut descriptors = Vec::with_capacity(DESCRIPTORS);
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // Nobody else may find them there.
    dup2_stdin(File::open("/dev/null")?)?;
    let mut next = descriptors.into_iter();
    let mut take = || next.next().ok_or(io::Error::from(io::ErrorKind::UnexpectedEof));
    let (tun, listener, state) = (take()?, take()?, take()?);
    let mut family = |bit| (said[0] & bit != 0).then(&mut take).transpose();
    let sockets = Sockets::adopt(family(V4)?, family(V6)?)?;
    Ok(Estate {
        tun,
        listener,
        sockets,
        device: read(File::from(state))?,
    })
}

/// The device as the UAPI tells it, in memory that has no name.
fn state(device: &Device) -> io::Result<File> {
    let mut file = File::from(memfd_create("tunneld", MemfdFlags::CLOEXEC)?);
    file.write_all(format_device(device).as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn read(state: File) -> io::Result<Device> {
    let mut state = BufReader::new(state);
    let mut parser = AnswerParser::default();
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(crate::model::uapi::MAX_LINE));
    loop {
        line.clear();
        if state.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(answer) = parser.line(text).map_err(io::Error::other)? {
            return Ok(answer.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        types::{PrivateKey, Secret},
        wireguard::Peer,
    };

    #[test]
    fn the_state_is_read_as_it_was_written() {
        let private = PrivateKey::new(Secret::from_bytes([1; 32]));
        let peer = Peer {
            endpoint: Some("[fe80::1%3]:7".parse().unwrap()),
            allowed_ips: ["10.0.0.0/8".parse().unwrap()].into(),
            last_handshake: Some(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(5, 6)),
            received_bytes: 7,
            ..Peer::default()
        };
        let device = Device {
            public_key: Some(private.public_key()),
            private_key: Some(private.clone()),
            listen_port: 51820,
            peers: [(private.public_key(), peer)].into(),
            ..Device::default()
        };
        assert_eq!(read(state(&device).unwrap()).unwrap(), device);
        assert!(read(tempfile::tempfile().unwrap()).is_err(), "nothing is no state");
    }

    #[test]
    fn a_program_that_cannot_be_started_changes_nothing() {
        let sockets = Sockets::bind(None, 0, crate::model::types::Fwmark::NONE, true).unwrap();
        let file = tempfile::tempfile().unwrap();
        let error = bequeath(
            Path::new("/nonexistent"),
            &[],
            file.as_fd(),
            file.as_fd(),
            &sockets,
            &Device::default(),
        );
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // Whoever hangs up is an error still, and no signal.
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let hung_up = File::from(writer).write_all(b"x").unwrap_err();
        assert_eq!(hung_up.kind(), io::ErrorKind::BrokenPipe);
        assert_ne!(sockets.port(), 0);
    }
}
