//! Netlink's own messages: acknowledgements, errors with their extended words, and the end of a dump.

use std::convert::Infallible;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NlasIterator,
};
use nix::errno::Errno;

use super::NetlinkError;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const EXTENDED_ACK_MESSAGE: u16 = 1;

/// An answer's attributes as they are: for readers that want few of them.
pub(in crate::kernel) struct Attributes(pub(in crate::kernel) Vec<u8>);

impl NetlinkDeserializable for Attributes {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(body(payload).to_vec()))
    }
}

/// What stands behind `struct nfgenmsg` or `struct genlmsghdr`.
pub(in crate::kernel) fn body(payload: &[u8]) -> &[u8] {
    payload.get(4..).unwrap_or_default()
}

/// What came of the requests with the sequence numbers `first..=last`.
pub(in crate::kernel) struct Answers {
    pub(in crate::kernel) first: u32,
    pub(in crate::kernel) last: u32,
    /// The first failure, with the sequence number of its request.
    pub(in crate::kernel) failure: Option<(u32, NetlinkError)>,
}

impl Answers {
    /// Takes a datagram; `each` gets every object in it. Whether the last request is complete.
    pub(in crate::kernel) fn take(
        &mut self,
        mut datagram: &[u8],
        mut each: impl FnMut(&NetlinkHeader, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        while !datagram.is_empty() {
            let message =
                NetlinkBuffer::new_checked(datagram).map_err(|error| NetlinkError::Decode(error.to_string()))?;
            let sequence = message.sequence_number();
            let end = (message.length() as usize).next_multiple_of(4);
            datagram = datagram.get(end..).unwrap_or_default();
            if sequence.wrapping_sub(self.first) > self.last.wrapping_sub(self.first) {
                continue;
            }
            match Answer::of(&message) {
                Answer::Content(header) => each(&header, message.payload())?,
                Answer::End(error) => {
                    if let (None, Some(error)) = (&self.failure, error) {
                        self.failure = Some((sequence, error));
                    }
                    if sequence == self.last {
                        return Ok(true);
                    }
                }
                Answer::Nothing => {}
            }
        }
        Ok(false)
    }
}

/// What one message of the kernel means for the request it answers.
pub(super) enum Answer {
    /// An object.
    Content(NetlinkHeader),
    /// The request is complete, and perhaps failed.
    End(Option<NetlinkError>),
    /// Nothing (`NLMSG_NOOP`).
    Nothing,
}

impl Answer {
    /// Reads it.
    pub(super) fn of(message: &NetlinkBuffer<&[u8]>) -> Self {
        /// Message types below this are netlink's own (`NLMSG_MIN_TYPE`).
        const FIRST_CONTENT: u16 = 16;
        let (kind, flags, payload) = (message.message_type(), message.flags(), message.payload());
        match kind {
            1 => Self::Nothing,
            2 => Self::End(error_of(payload, flags)),
            3 => Self::End(done_of(payload, flags)),
            4 => Self::End(Some(NetlinkError::Overrun)),
            kind if kind >= FIRST_CONTENT => {
                let mut header = NetlinkHeader::default();
                header.length = message.length();
                header.message_type = kind;
                header.flags = flags;
                header.sequence_number = message.sequence_number();
                header.port_number = message.port_number();
                Self::Content(header)
            }
            _ => Self::Nothing,
        }
    }
}

/// Reads `NLMSG_ERROR`: the error number, the request's header, the request's body unless the flags say that
/// it was left out, then attributes.
fn error_of(payload: &[u8], flags: u16) -> Option<NetlinkError> {
    let error = match ErrorBuffer::new_checked(payload) {
        Ok(error) => error,
        Err(error) => return Some(NetlinkError::Decode(error.to_string())),
    };
    let errno = Errno::from_raw(error.code()?.get().wrapping_neg());
    let attributes = if flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        let original = error.payload();
        let skip = match NetlinkBuffer::new(original) {
            _ if flags & NLM_F_CAPPED != 0 => 16,
            request if original.len() >= 16 => (request.length() as usize).next_multiple_of(4),
            _ => original.len(),
        };
        original.get(skip..)
    };
    Some(kernel_error(errno, attributes.unwrap_or_default()))
}

/// Reads `NLMSG_DONE`, which ends a dump and may carry an error; the attributes stand behind its number.
fn done_of(payload: &[u8], flags: u16) -> Option<NetlinkError> {
    match DoneBuffer::new_checked(payload) {
        Ok(done) if done.code() < 0 => {
            let errno = Errno::from_raw(done.code().wrapping_neg());
            Some(kernel_error(errno, done.extended_ack()))
        }
        _ => (flags & NLM_F_DUMP_INTR != 0).then_some(NetlinkError::Interrupted),
    }
}

fn kernel_error(errno: Errno, attributes: &[u8]) -> NetlinkError {
    let words = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == EXTENDED_ACK_MESSAGE)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        });
    NetlinkError::Kernel { errno, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of `kind` with a body of 32-bit words and bytes behind them.
    fn message(kind: u16, flags: u16, words: &[i32], bytes: &[u8]) -> Vec<u8> {
        let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        body.extend(bytes);
        let mut message = vec![0; 16];
        message.extend(body);
        let length = u32::try_from(message.len()).unwrap();
        let mut header = NetlinkBuffer::new(&mut message);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(flags);
        message
    }

    fn end(bytes: &[u8]) -> Option<NetlinkError> {
        match Answer::of(&NetlinkBuffer::new_checked(bytes).unwrap()) {
            Answer::End(error) => error,
            _ => panic!("not an end"),
        }
    }

    /// `NLMSGERR_ATTR_OFFS` and `NLMSGERR_ATTR_MSG` with "No.".
    const ATTRIBUTES: &[u8] = &[8, 0, 2, 0, 0, 0, 0, 0, 8, 0, 1, 0, b'N', b'o', b'.', 0];

    #[test]
    fn an_acknowledgement_is_no_error() {
        assert_eq!(end(&message(2, NLM_F_CAPPED, &[0, 20, 0, 0, 0], &[])), None);
        assert_eq!(end(&message(3, 0, &[0], &[])), None);
    }

    #[test]
    fn the_kernels_words_stand_behind_the_request_whole_or_capped() {
        let expected = NetlinkError::Kernel {
            errno: Errno::EINVAL,
            words: Some("No.".into()),
        };
        assert_eq!(expected.to_string(), "No (Invalid argument)");
        let capped = message(2, NLM_F_ACK_TLVS | NLM_F_CAPPED, &[-22, 20, 0, 0, 0], ATTRIBUTES);
        assert_eq!(end(&capped), Some(expected.clone()));
        let whole = message(2, NLM_F_ACK_TLVS, &[-22, 20, 0, 0, 0, 7], ATTRIBUTES);
        assert_eq!(end(&whole), Some(expected.clone()));
        let done = message(3, NLM_F_ACK_TLVS, &[-22], ATTRIBUTES);
        assert_eq!(end(&done), Some(expected));
    }

    #[test]
    fn an_error_without_words_or_cut_short_is_still_an_error() {
        let bare = |errno| NetlinkError::Kernel { errno, words: None };
        assert_eq!(end(&message(2, 0, &[-17, 20, 0, 0, 0], &[])), Some(bare(Errno::EEXIST)));
        assert_eq!(
            end(&message(2, NLM_F_ACK_TLVS, &[-17, 9999, 0], &[])),
            Some(bare(Errno::EEXIST))
        );
        assert!(matches!(end(&message(2, 0, &[], &[1])), Some(NetlinkError::Decode(_))));
    }

    #[test]
    fn an_interrupted_dump_says_so_at_its_end() {
        assert_eq!(
            end(&message(3, NLM_F_DUMP_INTR, &[0], &[])),
            Some(NetlinkError::Interrupted)
        );
    }
}
