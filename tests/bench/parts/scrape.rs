//! Metrics of a tunnel with a thousand peers: a scrape of the daemon, against the exporter that people run beside
//! WireGuard, and against `wg show`, which that exporter asks.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    contest::{Scale, in_turns},
    harness::{PATIENCE, appliance::Appliance, executable},
    host::peer,
    process::time,
    question::{Limit, Question, Statistic, Unit},
};

const TUNNELD: u16 = 9586;
const EXPORTER: u16 = 9587;

#[derive(Clone, Copy)]
enum Contender {
    Exporter,
    Show,
    Tunneld,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Exporter => "prometheus_wireguard_exporter",
            Self::Show => "wg show all dump",
            Self::Tunneld => "tunneld",
        }
    }
}

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let peers: u16 = scale.pick(1_000, 20);
    let appliance = Appliance::idle();
    appliance.start_with(executable(), "");
    appliance.apply(&document(peers));
    let mut exporter = exporter(&appliance);
    let title = format!("A scrape with {peers} peers");
    let mut question = Question::new("scrape", title, Unit::Seconds, Contender::Exporter.name()).aim(
        Contender::Tunneld.name(),
        Statistic::Median,
        Limit::Most(0.02),
    );
    let contenders = [Contender::Exporter, Contender::Show, Contender::Tunneld];
    in_turns(scale.pick(100, 2), &contenders, |contender| {
        let took = appliance.namespace.enter(|| match contender {
            Contender::Exporter => scrape(EXPORTER, peers),
            Contender::Show => time(Command::new("wg").args(["show", "all", "dump"])),
            Contender::Tunneld => scrape(TUNNELD, peers),
        });
        question.record("scrape", contender.name(), took.as_secs_f64());
    });
    exporter.kill().ok();
    exporter.wait().ok();
    vec![question]
}

fn document(peers: u16) -> String {
    let mut text = "version = 1\n[[wireguard]]\nname = \"wg0\"\naddresses = [\"10.0.0.1/16\"]\n".to_owned();
    for number in 1..=peers {
        let [high, low] = number.to_be_bytes();
        let mut key = [7; 32];
        key[..2].copy_from_slice(&[high, low]);
        text.push_str(&format!(
            "[[wireguard.peers]]\npublic-key = \"{}\"\nallowed-ips = [\"20.0.{high}.{low}/32\"]\n",
            STANDARD.encode(key)
        ));
    }
    text
}

/// Starts the exporter, which says nothing when it listens.
fn exporter(appliance: &Appliance) -> Child {
    let port = EXPORTER.to_string();
    let child = appliance
        .namespace
        .command([
            peer("prometheus_wireguard_exporter").as_str(),
            "-l",
            "127.0.0.1",
            "-p",
            &port,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the exporter starts");
    appliance.namespace.until_for(PATIENCE, "the exporter listens", || {
        !appliance
            .namespace
            .run(["ss", "-Hltn", &format!("sport = :{port}")])
            .is_empty()
    });
    child
}

/// Fetches all metrics, which have to tell of every peer.
fn scrape(port: u16, peers: u16) -> Duration {
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let took = began.elapsed();
    let told = answer
        .lines()
        .filter(|line| line.starts_with("wireguard_sent_bytes_total{"))
        .count();
    assert_eq!(
        told,
        usize::from(peers),
        "{}",
        answer.chars().take(2_000).collect::<String>()
    );
    took
}
