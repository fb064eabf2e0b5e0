//! The protocol against its own description, and a charon that misbehaves.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{
    Connection, Section, ViciError,
    message::Reader,
    packet::{Answer, Request},
};

const WITHIN: Duration = Duration::from_secs(5);

/// The example of strongSwan's README, as bytes.
#[test]
fn a_message_is_what_the_readme_says() {
    let message = Section::default().value("key1", "value1").section(
        "section1",
        Section::default()
            .section("sub-section", Section::default().value("key2", "value2"))
            .list("list1", ["item1", "item2"]),
    );
    let packet = Request::Command("x", &message).packet().unwrap();
    let expected = [
        &[0, 0, 0, 80, 0, 1, b'x'][..],
        &[3, 4],
        b"key1",
        &[0, 6],
        b"value1",
        &[1, 8],
        b"section1",
        &[1, 11],
        b"sub-section",
        &[3, 4],
        b"key2",
        &[0, 6],
        b"value2",
        &[2, 4, 5],
        b"list1",
        &[5, 0, 5],
        b"item1",
        &[5, 0, 5],
        b"item2",
        &[6, 2],
    ]
    .concat();
    assert_eq!(packet.as_slice(), expected);
    assert_eq!(Reader::new(&packet[7..]).message().unwrap(), message);
}

#[test]
fn what_does_not_fit_is_refused() {
    let long = "x".repeat(300);
    let large = vec![0; 70_000];
    for message in [
        Section::default().value(&long, "x"),
        Section::default().value("x", &large),
    ] {
        assert!(Request::Command("x", &message).packet().is_err());
    }
    let many = (0..10).fold(Section::default(), |message, _| message.value("x", &large[..60_000]));
    assert!(Request::Command("x", &many).packet().is_err());
    assert!(Request::Register(&long).packet().is_err());
}

#[test]
fn what_is_malformed_is_refused() {
    let deep = [1, 1, b'x'].repeat(1_000);
    for bytes in [
        &[2][..],
        &[1, 1, b'x'],
        &[3, 1, b'x', 0, 5, 0],
        &[3, 5, b'x'],
        &[4, 1, b'x', 3],
        &[4, 1, b'x', 5, 0, 1],
        &[7, 0],
        &[3, 1, 0xff, 0, 0],
        &deep,
    ] {
        assert!(Reader::new(bytes).message().is_err(), "{bytes:?}");
        assert!(Answer::parse(&[&[1], bytes].concat()).is_err(), "{bytes:?}");
    }
    for packet in [&[][..], &[0], &[8], &[7], &[7, 4, b'x']] {
        assert!(Answer::parse(packet).is_err(), "{packet:?}");
    }
}

#[test]
fn no_value_is_shown() {
    let message = Section::default().value("data", "a secret").list("more", ["a secret"]);
    let shown = format!("{message:?} {:?}", Request::Command("load-shared", &message));
    assert!(!shown.contains("secret"), "{shown}");
}

fn section() -> impl Strategy<Value = Section> {
    let name = "[a-z-]{0,20}";
    let leaf = prop_oneof![
        (name, vec(any::<u8>(), 0..50)).prop_map(|(name, value)| Section::default().value(&name, value)),
        (name, vec(vec(any::<u8>(), 0..9), 0..4)).prop_map(|(name, values)| Section::default().list(&name, values)),
    ];
    leaf.prop_recursive(4, 30, 4, move |inner| {
        vec((name, inner), 0..4).prop_map(|sections| {
            let add = |all: Section, (name, section): (String, Section)| all.section(&name, section);
            sections.into_iter().fold(Section::default(), add)
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(message in section()) {
        let packet = Request::Command("", &message).packet().unwrap();
        prop_assert_eq!(Reader::new(&packet[6..]).message().unwrap(), message);
    }

    #[test]
    fn whatever_comes_is_answered(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(Answer::Response(message)) = Answer::parse(&bytes) {
            let again = Request::Command("", &message).packet().unwrap();
            prop_assert_eq!(&again[6..], &bytes[1..]);
        }
    }
}

/// A connection, and charon's end of it.
async fn connected() -> (Connection, UnixStream) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("charon.vici");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = Connection::open(&path).await.unwrap();
    (connection, listener.accept().await.unwrap().0)
}

/// A connection to a charon that reads a packet and sends these bytes, in pieces, and so on.
async fn charon(answers: Vec<Vec<u8>>) -> Connection {
    let (connection, mut stream) = connected().await;
    tokio::spawn(async move {
        for answer in answers {
            let length = stream.read_u32().await.unwrap();
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            for piece in answer.chunks(3) {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    connection
}

fn packet(kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[kind], rest].concat()
}

#[tokio::test]
async fn an_answer_in_pieces_with_events_before_it() {
    let event = [&[7][..], b"list-sa", &[3, 1, b'n', 0, 1, b'1']].concat();
    let events = [packet(7, &event), packet(7, &event), packet(1, &[])].concat();
    let mut connection = charon(vec![packet(5, &[]), events, packet(5, &[])]).await;
    let mut numbers = Vec::new();
    let took = connection.list("list-sas", "list-sa", WITHIN, |section| {
        numbers.push(section.number("n"));
    });
    took.await.unwrap();
    assert_eq!(numbers, [Some(1), Some(1)]);
}

#[tokio::test]
async fn every_way_to_say_no_is_told_apart() {
    let refusal = Section::default()
        .value("success", "no")
        .value("errmsg", "no such config");
    let refusal = Request::Command("", &refusal).packet().unwrap();
    for (answer, said) in [
        (packet(2, &[]), "charon knows no command initiate"),
        (packet(1, &refusal[6..]), "initiate: no such config"),
        (packet(1, &[9, 0]), "initiate: an element is of no known kind"),
        (packet(5, &[]), "initiate: something else was answered"),
        (vec![0xff; 8], "initiate: a packet is longer than 512 KiB"),
        (vec![0, 0], "initiate: unexpected end of file"),
    ] {
        let mut connection = charon(vec![answer]).await;
        let error = connection
            .ask("initiate", &Section::default(), WITHIN)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), said);
    }
    let nobody = Connection::open(std::path::Path::new("/nonexistent/vici"))
        .await
        .unwrap_err();
    assert!(matches!(nobody, ViciError::Unreachable { .. }), "{nobody}");
}

#[tokio::test]
async fn a_charon_that_does_not_answer_is_not_waited_for() {
    let (mut connection, _charon) = connected().await;
    let soon = Duration::from_millis(50);
    let error = connection.ask("stats", &Section::default(), soon).await.unwrap_err();
    assert!(matches!(error, ViciError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn no_event_is_lost_that_comes_at_an_odd_moment() {
    let soon = Duration::from_millis(20);
    let event = |number: &[u8]| packet(7, &[&[3][..], b"log", &[3, 1, b'n', 0, 1], number].concat());
    let (mut connection, mut charon) = connected().await;
    // Before the confirmation of another one.
    charon.write_all(&[event(b"1"), packet(5, &[])].concat()).await.unwrap();
    connection.register("alert").await.unwrap();
    assert_eq!(connection.next().await.unwrap().1.number("n"), Some(1));
    // Half of it before somebody loses patience, and half of it afterwards.
    let (first, second) = (&event(b"2")[..5], &event(b"2")[5..]);
    charon.write_all(first).await.unwrap();
    assert!(timeout(soon, connection.next()).await.is_err());
    charon.write_all(second).await.unwrap();
    let (name, message) = timeout(WITHIN, connection.next()).await.unwrap().unwrap();
    assert_eq!((name.as_str(), message.number("n")), ("log", Some(2)));
}
