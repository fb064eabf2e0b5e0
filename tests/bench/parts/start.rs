//! From nothing to ten tunnels with a thousand routes: the daemon, started with the document in its store as after
//! a reboot, against `wg-quick up` ten times.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::{Duration, Instant},
};

use crate::{
    contest::{Scale, in_turns},
    harness::{Namespace, appliance::Appliance, executable},
    implementation::Implementation,
    question::{Limit, Question, Statistic, Unit},
    watch::{Fact, Watch},
};

#[derive(Clone, Copy)]
enum Contender {
    WgQuick(Implementation),
    Tunneld,
}

const CONTENDERS: [Contender; 3] = [
    Contender::WgQuick(Implementation::Go),
    Contender::WgQuick(Implementation::Boringtun),
    Contender::Tunneld,
];

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::WgQuick(Implementation::Go) => "wg-quick, wireguard-go",
            Self::WgQuick(_) => "wg-quick, boringtun-cli",
            Self::Tunneld => "tunneld",
        }
    }
}

/// How many tunnels, and routes of each.
#[derive(Clone, Copy)]
struct Size {
    tunnels: u8,
    routes: u8,
}

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let size = Size {
        tunnels: scale.pick(10, 2),
        routes: scale.pick(100, 3),
    };
    let title = format!(
        "From start to {} tunnels with {} routes",
        size.tunnels,
        u16::from(size.tunnels) * u16::from(size.routes)
    );
    let mut question = Question::new("start", title, Unit::Seconds, CONTENDERS[0].name()).aim(
        Contender::Tunneld.name(),
        Statistic::Median,
        Limit::MostOfPeer(1.0),
    );
    let (plain, appliance) = (size.configured(), size.stored());
    in_turns(scale.pick(7, 1), &CONTENDERS, |contender| {
        let took = match contender {
            Contender::WgQuick(implementation) => size.wg_quick(&plain, *implementation),
            Contender::Tunneld => size.daemon(&appliance),
        };
        question.record("start", contender.name(), took.as_secs_f64());
    });
    vec![question]
}

/// A public key like any other.
fn key(number: u8) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode([number + 1; 32])
}

impl Size {
    fn networks(self, tunnel: u8) -> Vec<String> {
        (0..self.routes)
            .map(|number| format!("20.{tunnel}.{number}.0/24"))
            .collect()
    }

    /// A namespace with a configuration for wg-quick(8) per tunnel.
    fn configured(self) -> Namespace {
        let namespace = Namespace::new();
        for tunnel in 0..self.tunnels {
            let private = namespace.run(["wg", "genkey"]);
            let text = format!(
                "[Interface]\nPrivateKey = {private}Address = 10.{tunnel}.0.1/24\nListenPort = {}\n[Peer]\nPublicKey = {}\n\
                 AllowedIPs = {}\n",
                51820 + u16::from(tunnel),
                key(tunnel),
                self.networks(tunnel).join(", ")
            );
            namespace.enter(|| std::fs::write(format!("/run/wg{tunnel}.conf"), text).expect("a file"));
        }
        namespace
    }

    fn wg_quick(self, namespace: &Namespace, implementation: Implementation) -> Duration {
        let quick = |verb: &str| {
            let last = self.tunnels - 1;
            let line =
                format!("for n in $(seq 0 {last}); do wg-quick {verb} /run/wg$n.conf 2>/dev/null || exit 1; done");
            let program = format!("WG_QUICK_USERSPACE_IMPLEMENTATION={}", implementation.program());
            let began = Instant::now();
            namespace.run(["env", &program, "WG_SUDO=true", "sh", "-c", &line]);
            began.elapsed()
        };
        let took = quick("up");
        assert_eq!(
            namespace.ip("route show proto boot").lines().count(),
            usize::from(self.tunnels) * usize::from(self.routes)
        );
        quick("down");
        took
    }

    /// An appliance whose store has the document, and whose kernel has nothing.
    fn stored(self) -> Appliance {
        let appliance = Appliance::idle();
        appliance.start_with(executable(), "");
        let mut document = "version = 1\n".to_owned();
        for tunnel in 0..self.tunnels {
            let _ = writeln!(
                document,
                "[[wireguard]]\nname = \"wg{tunnel}\"\naddresses = [\"10.{tunnel}.0.1/24\"]\nlisten-port = {}\n\
                 [[wireguard.peers]]\npublic-key = \"{}\"\nallowed-ips = {:?}",
                51820 + u16::from(tunnel),
                key(tunnel),
                self.networks(tunnel)
            );
        }
        appliance.apply(&document);
        self.forget(&appliance);
        appliance
    }

    fn daemon(self, appliance: &Appliance) -> Duration {
        let mut expected = BTreeSet::new();
        for tunnel in 0..self.tunnels {
            let link = format!("wg{tunnel}");
            let networks = self.networks(tunnel).into_iter();
            expected.extend(networks.map(|network| Fact::Route(link.clone(), network)));
            expected.insert(Fact::Address(link.clone(), format!("10.{tunnel}.0.1/24")));
            expected.insert(Fact::Up(link));
        }
        let mut watch = appliance.namespace.enter(|| Watch::new(BTreeMap::new(), expected));
        let took = watch.arrival(|| appliance.start_with(executable(), ""));
        self.forget(appliance);
        took
    }

    /// What a reboot does: the daemon ends, and the kernel has no tunnels.
    fn forget(self, appliance: &Appliance) {
        appliance.end("-TERM");
        for tunnel in 0..self.tunnels {
            appliance.namespace.ip(&format!("link delete wg{tunnel}"));
        }
        let engines = || Implementation::Tunneld.processes(&appliance.namespace);
        appliance.namespace.until("the engines end", || engines().is_empty());
    }
}
