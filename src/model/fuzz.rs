//! What fuzzers feed to this room, and what has to hold for it (`tests/fuzz/README.md`).

use super::{
    check::{read, validate},
    document::Document,
    uapi::{
        Answer, AnswerParser, Errno, LineTooLong, Lines, Malformed, Request, RequestParser, Zones, format_device,
        format_request, format_version, no_zones,
    },
    wireguard::{DeviceChange, PeerChange},
};

/// Arbitrary bytes, taken piece by piece as the beginnings of something longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of them.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next two bytes as a number.
    pub(crate) fn number(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// The next bytes, as many as the number before them says and as there are.
    pub(crate) fn piece(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?).min(self.0.len());
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(piece)
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A document: every error has its place in the text, and a valid one means the same when it is written and read
/// again, and to the crate `toml`.
pub fn document(bytes: &[u8]) {
    answered(&String::from_utf8_lossy(bytes));
}

/// Checks a text; every answer has its place in it.
pub(super) fn answered(text: &str) {
    match validate(text) {
        Ok((document, desired, warnings)) => {
            assert_eq!(read(text).as_ref(), Ok(&document));
            let json = serde_json::to_string(&document).unwrap_or_default();
            let again = validate(&json).map(|(document, desired, _)| (document, desired));
            if !text.trim_start().starts_with('{') {
                assert_eq!(toml::from_str::<Document>(text).as_ref(), Ok(&document), "{text:?}");
            }
            assert_eq!(again, Ok((document, desired)), "{text:?}");
            warnings.iter().for_each(|warning| placed(warning, text));
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            errors.iter().for_each(|error| placed(error, text));
        }
    }
}

fn placed(error: &super::check::DocumentError, text: &str) {
    let line = error.line.checked_sub(1).and_then(|line| text.split('\n').nth(line));
    let columns = line.map(|line| line.chars().count() + 1);
    assert!(
        columns.is_some_and(|columns| (1..=columns).contains(&error.column)),
        "{error} in {text:?}"
    );
    assert!(!error.reason.is_empty() && !error.fix.is_empty(), "{error}");
}

/// The UAPI's text: requests and answers that are understood mean the same when they are written and read again.
pub fn uapi(bytes: &[u8]) {
    for request in requests(bytes, &no_zones).into_iter().flatten() {
        let text = format_request(&request);
        assert_eq!(requests(text.as_bytes(), &no_zones), [Ok(settled(request))]);
    }
    for Answer { device, version, .. } in answers(bytes).into_iter().flatten() {
        let text = format_device(&device);
        let again = answers(text.as_bytes());
        assert_eq!(
            again.iter().flatten().map(|answer| &answer.device).collect::<Vec<_>>(),
            [&device]
        );
        let change = device.as_change();
        let text = format_request(&Request::Set(change.clone()));
        assert_eq!(requests(text.as_bytes(), &no_zones), [Ok(Request::Set(change))]);
        if let Some(version) = version {
            let again = answers(format_version(&version).as_bytes());
            assert_eq!(
                again
                    .into_iter()
                    .flatten()
                    .map(|answer| answer.version)
                    .collect::<Vec<_>>(),
                [Some(version)]
            );
        }
    }
}

/// A request without what does not count in it, and so is not written: all else about a peer that goes.
fn settled(request: Request) -> Request {
    let Request::Set(change) = request else { return request };
    let settled = |peer: PeerChange| match peer.remove {
        true => PeerChange {
            remove: true,
            ..PeerChange::new(peer.public_key)
        },
        false => peer,
    };
    Request::Set(DeviceChange {
        peers: change.peers.into_iter().map(settled).collect(),
        ..change
    })
}

/// Hands the lines of a text to `take`, as they come from a socket that delivers little at a time. Ends at a line
/// that is too long.
pub(super) fn feed<T>(text: &[u8], mut take: impl FnMut(Result<&[u8], LineTooLong>) -> Option<T>) -> Vec<T> {
    let mut lines = Lines::default();
    let mut taken = Vec::new();
    for chunk in text.chunks(7) {
        let space = lines.space();
        assert!(
            space.len() >= chunk.len(),
            "no room is left although every line was taken"
        );
        space.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        lines.filled(chunk.len());
        loop {
            match lines.next() {
                Ok(Some(line)) => taken.extend(take(Ok(line))),
                Ok(None) => break,
                Err(error) => {
                    taken.extend(take(Err(error)));
                    return taken;
                }
            }
        }
    }
    taken
}

/// The requests in a text, with what a server says of a line that is too long.
pub(crate) fn requests(text: &[u8], zones: Zones<'_>) -> Vec<Result<Request, Malformed>> {
    let mut parser = RequestParser::default();
    feed(text, |line| match line {
        Ok(line) => parser.line(line, zones).transpose(),
        Err(LineTooLong) => Some(Err(Malformed {
            line: 0,
            key: None,
            reason: "the line is too long",
            errno: Errno::TooLong,
        })),
    })
}

/// The answers in a text.
pub(crate) fn answers(text: &[u8]) -> Vec<Result<Answer, Malformed>> {
    let mut parser = AnswerParser::default();
    feed(text, |line| parser.line(line.ok()?).transpose())
}
