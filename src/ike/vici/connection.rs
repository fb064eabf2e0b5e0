//! A connection to charon: one command at a time, or events.

use std::{collections::VecDeque, io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    message::{Malformed, Section},
    packet::{Answer, MAX_PACKET, Request},
};

/// How long charon may take to take us in, or to take a packet.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many events may come between a registration and its confirmation.
const MOST_EARLY: usize = 1_000;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ViciError {
    /// Nobody listens: charon does not run, or runs without its vici plugin.
    #[error("charon does not answer at {path}: {error}")]
    Unreachable {
        /// The socket.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The connection ended, or charon did not answer in time.
    #[error("{command}: {error}")]
    Lost {
        /// What was asked.
        command: String,
        /// What the system says.
        error: io::Error,
    },
    /// One of us does not follow the protocol.
    #[error("{command}: {error}")]
    Malformed {
        /// What was asked.
        command: String,
        /// What is wrong.
        error: Malformed,
    },
    /// charon knows no such command or event: it is too old, or a plugin is missing.
    #[error("charon knows no {0}")]
    Unknown(String),
    /// charon said no, for this reason.
    #[error("{command}: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// charon's own words.
        reason: String,
    },
}

/// A connection that asks. Whoever gives up an answer half-way has to drop it: what comes next belongs to that question.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What has come of the next packet.
    begun: Vec<u8>,
    /// Events that came while something else was waited for.
    early: VecDeque<(String, Section)>,
}

impl Connection {
    /// Connects to charon's socket.
    ///
    /// # Errors
    /// [`ViciError::Unreachable`] when nobody listens there.
    pub async fn open(path: &Path) -> Result<Self, ViciError> {
        let connecting = timeout(PATIENCE, UnixStream::connect(path)).await;
        let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match stream {
            Ok(stream) => Ok(Self {
                stream,
                begun: Vec::new(),
                early: VecDeque::new(),
            }),
            Err(error) => Err(ViciError::Unreachable {
                path: path.display().to_string(),
                error,
            }),
        }
    }

    /// Has a command carried out, within this time.
    ///
    /// # Errors
    /// [`ViciError::Refused`] with charon's own words if it says that it failed.
    pub async fn ask(&mut self, command: &str, message: &Section, within: Duration) -> Result<Section, ViciError> {
        self.stream_of(command, message, None, within, |_| ()).await
    }

    /// Has a command carried out whose answer comes as events of one name, each of which is given to `take`.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub async fn list(
        &mut self,
        command: &str,
        event: &str,
        within: Duration,
        take: impl FnMut(Section),
    ) -> Result<(), ViciError> {
        self.register(event).await?;
        let nothing = Section::default();
        self.stream_of(command, &nothing, Some(event), within, take).await?;
        self.confirmed(&Request::Unregister(event), event).await
    }

    /// From now on charon tells of events of this name.
    ///
    /// # Errors
    /// [`ViciError::Unknown`] if it has none.
    pub async fn register(&mut self, event: &str) -> Result<(), ViciError> {
        self.confirmed(&Request::Register(event), event).await
    }

    /// The next event. Nothing is lost if this is given up before it is there.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<(String, Section), ViciError> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early);
        }
        match self.receive("events").await? {
            Answer::Event(name, message) => Ok((name, message)),
            _ => Err(malformed("events", Malformed("something else was answered"))),
        }
    }

    async fn stream_of(
        &mut self,
        command: &str,
        message: &Section,
        event: Option<&str>,
        within: Duration,
        mut take: impl FnMut(Section),
    ) -> Result<Section, ViciError> {
        self.send(&Request::Command(command, message), command).await?;
        let answering = async {
            loop {
                match self.receive(command).await? {
                    Answer::Response(answer) => return accepted(command, answer),
                    Answer::UnknownCommand => return Err(ViciError::Unknown(format!("command {command}"))),
                    Answer::Event(name, message) if event == Some(&name) => take(message),
                    _ => return Err(malformed(command, Malformed("something else was answered"))),
                }
            }
        };
        let answer = timeout(within, answering).await;
        answer.unwrap_or_else(|_| Err(lost(command, io::ErrorKind::TimedOut.into())))
    }

    async fn confirmed(&mut self, request: &Request<'_>, event: &str) -> Result<(), ViciError> {
        self.send(request, event).await?;
        let answering = async {
            loop {
                match self.receive(event).await? {
                    Answer::Confirmed => return Ok(()),
                    Answer::UnknownEvent => return Err(ViciError::Unknown(format!("event {event}"))),
                    Answer::Event(name, message) if self.early.len() < MOST_EARLY => {
                        self.early.push_back((name, message));
                    }
                    _ => return Err(malformed(event, Malformed("something else was answered"))),
                }
            }
        };
        let answer = timeout(PATIENCE, answering).await;
        answer.unwrap_or_else(|_| Err(lost(event, io::ErrorKind::TimedOut.into())))
    }

    async fn send(&mut self, request: &Request<'_>, command: &str) -> Result<(), ViciError> {
        let packet = request.packet().map_err(|error| malformed(command, error))?;
        let sent = timeout(PATIENCE, self.stream.write_all(&packet)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| lost(command, error))
    }

    async fn receive(&mut self, command: &str) -> Result<Answer, ViciError> {
        let packet = self.packet().await.map_err(|error| lost(command, error))?;
        Answer::parse(&packet).map_err(|error| malformed(command, error))
    }

    /// One packet, without its length.
    async fn packet(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(packet) = split_packet(&mut self.begun)? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.begun).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Takes the first packet out of what was read, without its length, if all of it is there.
pub(super) fn split_packet(read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some((length, rest)) = read.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_PACKET {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet is longer than 512 KiB",
        ));
    }
    if rest.len() < length {
        return Ok(None);
    }
    let others = read.split_off(4 + length);
    let mut packet = std::mem::replace(read, others);
    packet.drain(..4);
    Ok(Some(packet))
}

/// An answer, unless it says that the command failed. Answers without `success` are lists, which do not fail.
fn accepted(command: &str, answer: Section) -> Result<Section, ViciError> {
    if answer.text("success") != Some("no") {
        return Ok(answer);
    }
    Err(ViciError::Refused {
        command: command.to_owned(),
        reason: answer.text("errmsg").unwrap_or("charon gives no reason").to_owned(),
    })
}

fn lost(command: &str, error: io::Error) -> ViciError {
    ViciError::Lost {
        command: command.to_owned(),
        error,
    }
}

fn malformed(command: &str, error: Malformed) -> ViciError {
    ViciError::Malformed {
        command: command.to_owned(),
        error,
    }
}
