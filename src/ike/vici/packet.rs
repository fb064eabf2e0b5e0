//! What travels over the socket: packets with their length in front.

use zeroize::Zeroizing;

use super::message::{Malformed, Reader, Section, encode, put_name};

/// The longest packet in bytes, as in strongSwan's `vici_message.h`. charon ends a connection that sends a longer one.
pub(super) const MAX_PACKET: usize = 512 * 1024;

/// `vici_operation_t` in strongSwan's `vici_builder.h`.
const CMD_REQUEST: u8 = 0;
const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_UNREGISTER: u8 = 4;
const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

/// What we say.
#[derive(Debug)]
pub(super) enum Request<'a> {
    /// Do this.
    Command(&'a str, &'a Section),
    /// Tell of events of this name from now on.
    Register(&'a str),
    /// Tell of them no more.
    Unregister(&'a str),
}

/// What charon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A command was carried out, or failed: `success` says which.
    Response(Section),
    /// There is no such command.
    UnknownCommand,
    /// Events are told of from now on, or no more.
    Confirmed,
    /// There is no such event.
    UnknownEvent,
    /// Something happened, or a part of a long answer.
    Event(String, Section),
}

impl Request<'_> {
    /// The packet, with its length in front.
    ///
    /// # Errors
    /// What does not fit into one.
    pub(super) fn packet(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let mut bytes = Zeroizing::new(vec![0; 4]);
        let (kind, name) = match self {
            Self::Command(name, _) => (CMD_REQUEST, name),
            Self::Register(name) => (EVENT_REGISTER, name),
            Self::Unregister(name) => (EVENT_UNREGISTER, name),
        };
        bytes.push(kind);
        put_name(name, &mut bytes)?;
        if let Self::Command(_, message) = self {
            encode(message, &mut bytes)?;
        }
        let length = bytes.len() - 4;
        let length = u32::try_from(length).ok().filter(|_| length <= MAX_PACKET);
        let length = length.ok_or(Malformed("the packet would be longer than 512 KiB"))?;
        bytes.splice(..4, length.to_be_bytes());
        Ok(bytes)
    }
}

impl Answer {
    /// Reads a packet, without the length in front of it.
    ///
    /// # Errors
    /// What does not follow the protocol, or what only we may say.
    pub(super) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(packet);
        match reader.byte()? {
            CMD_RESPONSE => reader.message().map(Self::Response),
            CMD_UNKNOWN => Ok(Self::UnknownCommand),
            EVENT_CONFIRM => Ok(Self::Confirmed),
            EVENT_UNKNOWN => Ok(Self::UnknownEvent),
            EVENT => {
                let name = reader.name()?;
                Ok(Self::Event(name, reader.message()?))
            }
            _ => Err(Malformed("a packet is of no known kind")),
        }
    }
}
