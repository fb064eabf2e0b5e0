//! The UAPI's other end: what the daemon asks an engine, bounded in time and in bytes.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::spawn_blocking,
    time::timeout,
};

use super::{error::EngineError, socket};
use crate::model::{
    types::InterfaceName,
    uapi::{Answer, AnswerParser, Lines, Request, format_request},
    wireguard::{Device, DeviceChange},
};

/// How long an engine may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an engine may take to end after it was asked to, and after it was killed.
const END: Duration = Duration::from_secs(5);

/// A connection to the engine of one interface.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    name: InterfaceName,
}

impl Connection {
    /// Connects to the engine of `name`.
    ///
    /// # Errors
    /// When nobody listens.
    pub(super) async fn open(directory: &Path, name: &InterfaceName) -> Result<Self, EngineError> {
        let path = socket::path(directory, name);
        let connecting = timeout(ANSWER, UnixStream::connect(&path)).await;
        let stream = connecting
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| EngineError::new(format!("connect to {}", path.display()), error))?;
        Ok(Self {
            stream,
            name: name.clone(),
        })
    }

    /// The device as it is.
    pub(super) async fn get(&mut self) -> Result<Device, EngineError> {
        let attempt = format!("read wireguard {}", self.name);
        self.ask(attempt, &Request::Get).await.map(|answer| answer.device)
    }

    /// Changes the device.
    pub(super) async fn set(&mut self, change: DeviceChange) -> Result<(), EngineError> {
        let attempt = format!("configure wireguard {}", self.name);
        self.ask(attempt, &Request::Set(change)).await.map(drop)
    }

    /// The engine's version; an error if it is not ours. Other implementations hang up.
    pub(super) async fn version(&mut self) -> Result<String, EngineError> {
        let attempt = format!("ask for the version of the engine of {}", self.name);
        let answer = self.ask(attempt.clone(), &Request::Version).await?;
        answer
            .version
            .ok_or_else(|| EngineError::new(attempt, io::Error::other("no version in the answer")))
    }

    /// Has the engine become another program, with the same process id. It hangs up, and answers who asks next
    /// as soon as it is there.
    pub(super) async fn hand_over(mut self, executable: &Path) -> Result<(), EngineError> {
        let attempt = format!("hand {} over to {}", self.name, executable.display());
        match self.ask(attempt, &Request::Handover(executable.to_owned())).await {
            Err(error) if error.source.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            result => result.map(drop),
        }
    }

    /// The engine's process, even if the engine answers nothing.
    pub(super) fn process(&self) -> Result<Process, EngineError> {
        let attempt = || format!("find the engine of {}", self.name);
        let pid = socket::listener_of(&self.stream)
            .and_then(Pid::from_raw)
            .ok_or_else(|| EngineError::new(attempt(), io::Error::other("it lives in another PID namespace")))?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| EngineError::new(attempt(), error))?;
        Ok(Process {
            pid,
            handle: handle.into(),
        })
    }

    async fn ask(&mut self, attempt: String, request: &Request) -> Result<Answer, EngineError> {
        let asked = timeout(ANSWER, exchange(&mut self.stream, request)).await;
        let answer = asked
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the engine does not answer")))
            .map_err(|error| EngineError::new(attempt.clone(), error))?;
        match answer.errno {
            0 => Ok(answer),
            errno => Err(EngineError::new(attempt, io::Error::from_raw_os_error(errno))),
        }
    }
}

async fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<Answer> {
    stream.write_all(format_request(request).as_bytes()).await?;
    let mut lines = Lines::default();
    let mut parser = AnswerParser::default();
    loop {
        while let Some(line) = lines.next().map_err(invalid)? {
            if let Some(answer) = parser.line(line).map_err(invalid)? {
                return Ok(answer);
            }
        }
        match stream.read(lines.space()).await? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the engine hung up")),
            count => lines.filled(count),
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A process that cannot be mistaken for another (`pidfd_open(2)`).
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    handle: Arc<OwnedFd>,
}

impl Process {
    /// Asks the process to end, kills it if it does not, and returns when it is gone and with it whatever it
    /// had open.
    pub(super) async fn end(&self) -> Result<(), EngineError> {
        for signal in [Signal::TERM, Signal::KILL] {
            let attempt = format!("end the engine, pid {}", self.pid.as_raw_nonzero());
            match pidfd_send_signal(&*self.handle, signal) {
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                result => result.map_err(|error| EngineError::new(attempt, error))?,
            }
            if self.ended().await.is_ok() {
                return Ok(());
            }
        }
        self.ended().await
    }

    async fn ended(&self) -> Result<(), EngineError> {
        let attempt = || format!("wait for the end of pid {}", self.pid.as_raw_nonzero());
        let handle = self.handle.clone();
        let waited = spawn_blocking(move || ends_within(&handle, END)).await;
        match waited.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::new(attempt(), io::ErrorKind::TimedOut)),
            Err(error) => Err(EngineError::new(attempt(), error)),
        }
    }
}

/// Whether the process ends in time. Blocks; the runtime's own way to wait for a descriptor is unsafe.
fn ends_within(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut waited = [PollFd::new(handle, PollFlags::IN)];
    Ok(poll(&mut waited, Some(&patience))? > 0)
}
