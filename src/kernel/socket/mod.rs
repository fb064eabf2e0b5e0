//! One netlink socket with one request under way at a time: sequence numbers checked, extended
//! acknowledgements read, batches, dumps that are repeated when the kernel says they were interrupted, and a
//! limit on every wait.
//!
//! It stands on its own descriptor instead of `netlink_proto::Connection`, because that one reads ahead
//! into unbounded queues (a full routing table would be held in memory) and never completes a request whose
//! acknowledgements were lost to an overrun. Here the reader pulls, the kernel waits, and an overrun is the
//! request's own error. See `netlink(7)` and the kernel's `net/netlink/af_netlink.c`.

mod answer;
mod error;

use std::{future::poll_fn, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::SndBufForce},
};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

pub(super) use self::answer::{Answers, Attributes, body};
pub(crate) use self::error::NetlinkError;

/// How long the kernel may be silent in the middle of a request. It answers within the system call unless
/// somebody holds the lock of the routing tables.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages in one system call. More bring little, and each may cost an error of its own in the receive
/// buffer.
const BATCH_MESSAGES: usize = 200;

/// Bytes in one system call: well under the default send buffer (`net.core.wmem_default`).
const BATCH_BYTES: usize = 64 * 1024;

/// Receive buffer asked for: room for a batch in which every message fails, with its words.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// The largest datagram taken. The kernel fills at most 32 KiB of a dump at a time.
pub(crate) const DATAGRAM: usize = 64 * 1024;

/// How often a dump is begun anew when the kernel says that its objects changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

/// What became of a batch: how many messages were done before the first that was not, and why it was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Batch {
    /// Messages done before the first failure.
    pub(crate) done: usize,
    /// The first failure. Some of the messages behind it may have been done too.
    pub(crate) failure: Option<NetlinkError>,
}

/// A netlink socket of one protocol.
pub(crate) struct Socket {
    protocol: isize,
    descriptor: TokioSocket,
    sequence: u32,
    /// A request was begun and not brought to its end: its answers may still come, so the next request
    /// starts with a new descriptor.
    unfinished: bool,
    datagram: Vec<u8>,
}

impl Socket {
    /// Opens a socket of `protocol` (such as `NETLINK_ROUTE`) in the network namespace of the calling
    /// thread, on the runtime of the calling task.
    pub(crate) fn connect(protocol: isize) -> Result<Self, NetlinkError> {
        Ok(Self {
            protocol,
            descriptor: open(protocol)?,
            sequence: 0,
            unfinished: false,
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Sends one request and returns what the kernel answered before its acknowledgement.
    pub(crate) async fn request<T, R>(&mut self, message: T, flags: u16) -> Result<Vec<R>, NetlinkError>
    where
        T: NetlinkSerializable,
        R: NetlinkDeserializable,
    {
        self.begin()?;
        // There may be a key in it.
        let mut bytes = Zeroizing::new(Vec::new());
        let last = self.frame(&mut bytes, message, flags | NLM_F_REQUEST | NLM_F_ACK);
        self.send(&bytes).await?;
        let mut answers = Vec::new();
        self.answers(last, last, |header, payload| {
            let answer = R::deserialize(header, payload).map_err(|error| NetlinkError::Decode(error.to_string()))?;
            answers.push(answer);
            Ok(())
        })
        .await?
        .map_or(Ok(answers), |(_, failure)| Err(failure))
    }

    /// Clears what was received: there may have been a key in it.
    pub(crate) fn forget(&mut self) {
        self.datagram.zeroize();
    }

    /// Lists objects: `each` gets the type and the body of every message, together with what it gathered
    /// so far. A dump that the kernel calls interrupted starts anew with nothing gathered.
    pub(crate) async fn dump<T, A>(
        &mut self,
        message: T,
        mut each: impl FnMut(&mut A, u16, &[u8]),
    ) -> Result<A, NetlinkError>
    where
        T: NetlinkSerializable + Clone,
        A: Default,
    {
        for _ in 0..DUMP_ATTEMPTS {
            self.begin()?;
            let mut bytes = Vec::new();
            let last = self.frame(&mut bytes, message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
            self.send(&bytes).await?;
            let mut gathered = A::default();
            let mut interrupted = false;
            let end = self
                .answers(last, last, |header, payload| {
                    interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                    each(&mut gathered, header.message_type, payload);
                    Ok(())
                })
                .await?;
            match end {
                Some((_, NetlinkError::Interrupted)) => {}
                Some((_, failure)) => return Err(failure),
                None if interrupted => {}
                None => return Ok(gathered),
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Sends messages in order, several in one system call, each with its own flags. The kernel carries out
    /// every message of a system call whatever becomes of those before it; no further system call is made
    /// after a failure.
    pub(crate) async fn batch<T: NetlinkSerializable>(&mut self, messages: Vec<(T, u16)>) -> Batch {
        let mut messages = messages.into_iter().peekable();
        let mut done = 0;
        while messages.peek().is_some() {
            match self.batch_part(&mut messages).await {
                Ok((count, None)) => done += count,
                Ok((count, failure)) => {
                    return Batch {
                        done: done + count,
                        failure,
                    };
                }
                Err(failure) => {
                    return Batch {
                        done,
                        failure: Some(failure),
                    };
                }
            }
        }
        Batch { done, failure: None }
    }

    /// Sends messages that the kernel carries out together or not at all, in one system call: the first and
    /// the last are the transaction's brackets (`nfnetlink_rcv_batch()`). All carry one sequence number, so
    /// whichever the kernel answers first, a failure or the acknowledgement of the last but one, is the
    /// transaction's result; kernels before 6.10 do not acknowledge the closing bracket.
    pub(crate) async fn transaction<T: NetlinkSerializable>(
        &mut self,
        messages: Vec<(T, u16)>,
    ) -> Result<(), NetlinkError> {
        self.begin()?;
        let acknowledged = messages.len().checked_sub(2);
        let sequence = self.sequence.wrapping_add(1).max(1);
        let mut bytes = Vec::new();
        for (index, (message, flags)) in messages.into_iter().enumerate() {
            let acknowledge = if Some(index) == acknowledged { NLM_F_ACK } else { 0 };
            self.sequence = sequence.wrapping_sub(1);
            self.frame(&mut bytes, message, flags | NLM_F_REQUEST | acknowledge);
        }
        self.sequence = sequence;
        if bytes.len() > BATCH_BYTES {
            // Only the privileged may; others meet EMSGSIZE if the system's limit is too low.
            let _ = setsockopt(self.descriptor.socket_ref(), SndBufForce, &(2 * bytes.len()));
        }
        self.send(&bytes).await?;
        let failure = self.answers(sequence, sequence, |_, _| Ok(())).await?;
        failure.map_or(Ok(()), |(_, failure)| Err(failure))
    }

    /// Sends as many messages as one system call takes. Only the last asks for an acknowledgement: the
    /// kernel answers in order and always reports errors, so it stands for all before it.
    async fn batch_part<T: NetlinkSerializable>(
        &mut self,
        messages: &mut impl Iterator<Item = (T, u16)>,
    ) -> Result<(usize, Option<NetlinkError>), NetlinkError> {
        self.begin()?;
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut last_start = 0;
        let mut count = 0;
        while count < BATCH_MESSAGES && bytes.len() < BATCH_BYTES {
            let Some((message, flags)) = messages.next() else { break };
            last_start = bytes.len();
            self.frame(&mut bytes, message, flags | NLM_F_REQUEST);
            count += 1;
        }
        if let Some(last) = bytes.get_mut(last_start..) {
            let mut header = NetlinkBuffer::new(last);
            header.set_flags(header.flags() | NLM_F_ACK);
        }
        self.send(&bytes).await?;
        let last = self.sequence;
        let failure = self.answers(first, last, |_, _| Ok(())).await?;
        Ok(match failure {
            Some((sequence, failure)) => (sequence.wrapping_sub(first) as usize, Some(failure)),
            None => (count, None),
        })
    }

    /// Makes sure that no answer to an older request can come, and marks the new one as unfinished.
    fn begin(&mut self) -> Result<(), NetlinkError> {
        if self.unfinished {
            self.descriptor = open(self.protocol)?;
        }
        self.unfinished = true;
        Ok(())
    }

    /// Appends a message to `bytes` and returns its sequence number.
    fn frame<T: NetlinkSerializable>(&mut self, bytes: &mut Vec<u8>, message: T, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut framed = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        framed.finalize();
        let start = bytes.len();
        bytes.resize(start + framed.buffer_len().next_multiple_of(4), 0);
        if let Some(place) = bytes.get_mut(start..) {
            framed.serialize(place);
        }
        self.sequence
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let sent = poll_fn(|context| self.descriptor.poll_send(context, bytes));
        let sent = timeout(PATIENCE, sent).await.map_err(|_| NetlinkError::Timeout)??;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(NetlinkError::Decode("a request was cut short".into()))
        }
    }

    /// Reads one datagram into `self.datagram`.
    async fn receive(&mut self) -> Result<(), NetlinkError> {
        let Self {
            descriptor, datagram, ..
        } = self;
        datagram.clear();
        let read = poll_fn(|context| descriptor.poll_recv(context, datagram));
        match timeout(PATIENCE, read).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Err(NetlinkError::Overrun),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(NetlinkError::Timeout),
        }
    }

    /// Reads answers to the requests `first..=last` until the last is complete, and returns the first
    /// failure with the sequence number of its request.
    async fn answers(
        &mut self,
        first: u32,
        last: u32,
        mut each: impl FnMut(&NetlinkHeader, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<Option<(u32, NetlinkError)>, NetlinkError> {
        let mut answers = Answers {
            first,
            last,
            failure: None,
        };
        loop {
            self.receive().await?;
            if answers.take(&self.datagram, &mut each)? {
                self.unfinished = false;
                return Ok(answers.failure);
            }
        }
    }
}

/// Opens and prepares a descriptor. It is connected to the kernel, so that no other process can answer.
pub(crate) fn open(protocol: isize) -> Result<TokioSocket, NetlinkError> {
    let mut descriptor = TokioSocket::new(protocol)?;
    let socket = descriptor.socket_mut();
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    // Kernels before 4.20 filter no dump; every reader filters for itself as well.
    let _ = socket.set_netlink_get_strict_chk(true);
    enlarge_receive_buffer(socket, RECEIVE_BUFFER);
    Ok(descriptor)
}

/// Asks for a larger receive buffer: past the system's limit where that is allowed, else up to it. The
/// buffer there is does as well, only an overrun comes sooner.
pub(crate) fn enlarge_receive_buffer(socket: &netlink_sys::Socket, bytes: usize) {
    if set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = set_socket_recv_buffer_size(socket, bytes);
    }
}
