//! What fuzzers feed to this client, and what has to hold for it (`tests/fuzz/README.md`).

use super::packet::{Answer, Request};

/// Reads packets as a connection does; those that are understood are written again as the same bytes.
///
/// # Panics
/// If that does not hold.
pub fn vici(bytes: &[u8]) {
    let mut read = bytes.to_vec();
    while let Ok(Some(packet)) = super::connection::split_packet(&mut read) {
        let (name, message) = match Answer::parse(&packet) {
            Ok(Answer::Response(message)) => (String::new(), message),
            Ok(Answer::Event(name, message)) => (name, message),
            Ok(Answer::Confirmed | Answer::UnknownCommand | Answer::UnknownEvent) | Err(_) => continue,
        };
        let again = Request::Command(&name, &message).packet();
        // A response has no name, and so no length of one.
        let head = if packet.first() == Some(&1) { 6 } else { 5 };
        let same = again.is_ok_and(|again| again.get(head..) == packet.get(1..));
        assert!(same, "{message:?}");
    }
}
