//! Names against a server of the test's own, on loopback in a namespace.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tempfile::TempDir;
use tunneld::health::dns::{LookupError, Resolution, Resolver};

use crate::harness::Namespace;

/// What the server says to a question: nothing at all, or a response made from it.
type Reply = Box<dyn Fn(&Message) -> Option<Message> + Send>;

struct Server {
    reply: Arc<Mutex<Reply>>,
    files: TempDir,
    namespace: Namespace,
}

impl Server {
    /// A server on 127.0.0.1, for UDP and TCP; the threads end with the test's process.
    fn new(reply: impl Fn(&Message) -> Option<Message> + Send + 'static) -> Self {
        let namespace = Namespace::new();
        let reply: Arc<Mutex<Reply>> = Arc::new(Mutex::new(Box::new(reply)));
        let (udp, tcp) = namespace.enter(|| {
            (
                UdpSocket::bind("127.0.0.1:53").unwrap(),
                TcpListener::bind("127.0.0.1:53").unwrap(),
            )
        });
        let udp_reply = Arc::clone(&reply);
        thread::spawn(move || serve_udp(&udp, &udp_reply));
        let tcp_reply = Arc::clone(&reply);
        thread::spawn(move || serve_tcp(&tcp, &tcp_reply));
        let files = TempDir::new().unwrap();
        fs::write(files.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        Self {
            reply,
            files,
            namespace,
        }
    }

    fn say(&self, reply: impl Fn(&Message) -> Option<Message> + Send + 'static) {
        *self.reply.lock().unwrap() = Box::new(reply);
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.files.path().join(file), text).unwrap();
    }

    fn resolver(&self) -> Resolver {
        let file = |name| self.files.path().join(name);
        Resolver::new(file("resolv.conf"), file("hosts"))
    }

    fn lookup(&self, resolver: &Resolver) -> Result<Resolution, LookupError> {
        let name = "vpn.example.net".parse().unwrap();
        self.namespace.block_on(|| async { resolver.lookup(&name).await })
    }
}

fn serve_udp(socket: &UdpSocket, reply: &Mutex<Reply>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let Some(mut answer) = reply.lock().unwrap()(&question) else {
            continue;
        };
        if answer.to_vec().unwrap().len() > 1200 {
            answer = answer.truncate();
        }
        socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
    }
}

fn serve_tcp(listener: &TcpListener, reply: &Mutex<Reply>) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).unwrap();
            let question = Message::from_vec(&question).unwrap();
            let Some(answer) = reply.lock().unwrap()(&question) else {
                continue;
            };
            let bytes = answer.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            stream.write_all(&[length.as_slice(), &bytes].concat()).unwrap();
        }
    }
}

/// A response to `question` with the addresses of the family it asks for.
fn answer(question: &Message, ttl: u32, addresses: &[IpAddr]) -> Message {
    let query = question.queries()[0].clone();
    let mut answer = empty(question, ResponseCode::NoError);
    for address in addresses {
        if (query.query_type() == RecordType::A) == address.is_ipv4() {
            answer.add_answer(Record::from_rdata(query.name().clone(), ttl, RData::from(*address)));
        }
    }
    answer
}

fn empty(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new();
    answer
        .set_id(question.id())
        .set_message_type(MessageType::Response)
        .set_recursion_desired(true)
        .set_recursion_available(true)
        .set_response_code(code)
        .add_query(question.queries()[0].clone());
    answer
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn both_families_are_found_and_the_least_ttl_counts() {
    let server = Server::new(|question| {
        let v4 = question.queries()[0].query_type() == RecordType::A;
        let ttl = if v4 { 40 } else { 70 };
        Some(answer(
            question,
            ttl,
            &addresses(&["127.0.0.9", "2001:db8::1", "127.0.0.8"]),
        ))
    });
    let resolution = server.lookup(&server.resolver()).unwrap();
    // The namespace has a route to 127/8 and none to 2001:db8::/32.
    assert_eq!(
        resolution.addresses,
        addresses(&["127.0.0.8", "127.0.0.9", "2001:db8::1"])
    );
    assert!((35..=40).contains(&resolution.ttl.as_secs()), "{:?}", resolution.ttl);
}

#[test]
fn every_question_is_asked_anew() {
    let server = Server::new(|question| Some(answer(question, 3600, &addresses(&["127.0.0.1"]))));
    let resolver = server.resolver();
    assert_eq!(server.lookup(&resolver).unwrap().addresses, addresses(&["127.0.0.1"]));
    server.say(|question| Some(answer(question, 0, &addresses(&["127.0.0.2"]))));
    let resolution = server.lookup(&resolver).unwrap();
    assert_eq!(resolution.addresses, addresses(&["127.0.0.2"]));
    assert_eq!(resolution.ttl, Duration::ZERO);
}

#[test]
fn the_reason_says_what_the_server_said() {
    let server = Server::new(|question| Some(empty(question, ResponseCode::NXDomain)));
    let resolver = server.resolver();
    assert!(matches!(server.lookup(&resolver), Err(LookupError::NoSuchName(_))));
    server.say(|question| Some(empty(question, ResponseCode::NoError)));
    assert!(matches!(server.lookup(&resolver), Err(LookupError::NoAddress(_))));
    server.say(|question| Some(empty(question, ResponseCode::ServFail)));
    let error = server.lookup(&resolver).unwrap_err();
    assert!(matches!(error, LookupError::Failed { .. }), "{error}");
    server.say(|question| {
        Some(answer(
            question,
            9,
            &addresses(&["0.0.0.0", "224.0.0.1", "ff02::1", "::"]),
        ))
    });
    assert!(
        matches!(server.lookup(&resolver), Err(LookupError::NoAddress(_))),
        "no packet can go there"
    );
}

#[test]
fn a_server_that_never_answers_costs_five_seconds_and_no_more() {
    let server = Server::new(|_| None);
    let start = Instant::now();
    let error = server.lookup(&server.resolver()).unwrap_err();
    assert!(matches!(error, LookupError::NoAnswer(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
}

#[test]
fn one_silent_family_does_not_hide_the_other() {
    let server = Server::new(|question| {
        let v4 = question.queries()[0].query_type() == RecordType::A;
        v4.then(|| answer(question, 60, &addresses(&["127.0.0.1"])))
    });
    let resolution = server.lookup(&server.resolver()).unwrap();
    assert_eq!(resolution.addresses, addresses(&["127.0.0.1"]));
}

#[test]
fn a_huge_answer_comes_by_tcp_and_is_cut() {
    let server = Server::new(|question| {
        let many: Vec<_> = (0..2000u32)
            .map(|n| IpAddr::from((0x7f00_0000 + n).to_be_bytes()))
            .collect();
        Some(answer(question, 60, &many))
    });
    assert_eq!(server.lookup(&server.resolver()).unwrap().addresses.len(), 64);
}

#[test]
fn a_forged_answer_is_not_believed() {
    // Another identifier, another question: neither belongs to what was asked.
    let server = Server::new(|question| {
        let mut forged = answer(question, 60, &addresses(&["127.0.0.66"]));
        forged.set_id(question.id().wrapping_add(1));
        Some(forged)
    });
    let resolver = server.resolver();
    assert!(server.lookup(&resolver).is_err());
    server.say(|question| {
        let mut other = question.clone();
        let mut query = other.queries()[0].clone();
        query.set_name("other.example.net.".parse().unwrap());
        other.take_queries();
        other.add_query(query);
        Some(answer(&other, 60, &addresses(&["127.0.0.66"])))
    });
    assert!(server.lookup(&resolver).is_err());
}

#[test]
fn the_files_are_read_again_when_they_change() {
    let server = Server::new(|question| Some(answer(question, 60, &addresses(&["127.0.0.1"]))));
    let resolver = server.resolver();
    server.write("resolv.conf", "# nothing\n");
    let error = server.lookup(&resolver).unwrap_err();
    assert!(error.to_string().contains("resolv.conf"), "{error}");
    server.write("resolv.conf", "nameserver 127.0.0.1\noptions ndots:1\n");
    assert_eq!(server.lookup(&resolver).unwrap().addresses, addresses(&["127.0.0.1"]));
    server.write("hosts", "127.0.0.44 vpn.example.net other\n");
    let resolution = server.lookup(&resolver).unwrap();
    assert_eq!(resolution.addresses, addresses(&["127.0.0.44"]));
    assert_eq!(resolution.ttl, Duration::from_secs(60));
    server.write("hosts", "");
    assert_eq!(server.lookup(&resolver).unwrap().addresses, addresses(&["127.0.0.1"]));
}

#[test]
fn many_names_wait_for_their_turn() {
    let server = Server::new(|question| Some(answer(question, 60, &addresses(&["127.0.0.1"]))));
    let resolver = Arc::new(server.resolver());
    let found = server.namespace.block_on(|| async {
        let questions = (0..100).map(|number| {
            let resolver = Arc::clone(&resolver);
            tokio::spawn(async move {
                resolver
                    .lookup(&format!("n{number}.example.net").parse().unwrap())
                    .await
            })
        });
        let mut found = 0;
        for question in questions.collect::<Vec<_>>() {
            found += usize::from(question.await.unwrap().is_ok());
        }
        found
    });
    assert_eq!(found, 100);
}
