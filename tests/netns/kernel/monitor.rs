//! Announcements, and readings that are disturbed.

use std::{collections::BTreeSet, future::poll_fn, process::Command, task::Poll, time::Duration};

use tunneld::{
    kernel::{
        Kernel,
        monitor::{Announcement, Monitor},
    },
    model::{
        desired::Address,
        observed::{Observed, Scope},
        ports::{ErrorClass, Port},
    },
};

use super::world;
use crate::harness::PATIENCE;

/// Waits until every one of `kinds` was announced.
async fn announced(monitor: &mut Monitor, kinds: &[Announcement]) -> BTreeSet<Announcement> {
    let mut seen = BTreeSet::new();
    while !kinds.iter().all(|kind| seen.contains(kind)) {
        let next = tokio::time::timeout(PATIENCE, monitor.next()).await;
        seen.extend(next.unwrap_or_else(|_| panic!("only {seen:?} was announced")).unwrap());
    }
    seen
}

/// `ip` in the namespace in which the calling thread is already.
fn ip(words: &str) {
    let done = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(
        done.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn changes_are_announced_by_kind() {
    let namespace = world();
    namespace.block_on(|| async {
        let mut monitor = Monitor::start().unwrap();
        for (words, kind) in [
            ("link add br0 type bridge", Announcement::Link),
            ("link del br0", Announcement::Link),
            ("addr add 10.8.0.1/24 dev wg0", Announcement::Address),
            ("addr del 10.8.0.1/24 dev wg0", Announcement::Address),
            ("route add 20.0.1.0/24 dev wg0 proto 84", Announcement::Route),
            ("route del 20.0.1.0/24 dev wg0 proto 84", Announcement::Route),
            ("-6 route add 2001:db8::/32 dev wg0 proto 84", Announcement::Route),
            ("route add 20.0.1.0/24 dev wg0 proto 85", Announcement::ForeignRoute),
            ("rule add priority 7 table 7", Announcement::Rule),
            ("-6 rule add priority 7 table 7", Announcement::Rule),
            ("rule del priority 7 table 7", Announcement::Rule),
        ] {
            ip(words);
            announced(&mut monitor, &[kind]).await;
        }
        let quiet = tokio::time::timeout(Duration::from_millis(50), monitor.next()).await;
        assert!(quiet.is_err(), "{quiet:?} although nothing changed");
    });
}

#[test]
fn a_burst_overruns_the_monitor_and_it_recovers() {
    let namespace = world();
    let lines = |verb: &str| -> String {
        (0..30_000)
            .map(|n| {
                format!(
                    "route {verb} 30.{}.{}.{}/32 dev wg0 proto 84\n",
                    n / 65536,
                    n / 256 % 256,
                    n % 256
                )
            })
            .collect()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines("add") + &lines("del")).unwrap();
    namespace.block_on(|| async {
        let mut monitor = Monitor::start().unwrap();
        // The runtime has one thread, which waits here: nobody reads the announcements.
        ip(&format!("-batch {}", file.path().display()));
        announced(&mut monitor, &[Announcement::Overrun, Announcement::Route]).await;
        while tokio::time::timeout(Duration::from_millis(50), monitor.next())
            .await
            .is_ok()
        {}
        ip("rule add priority 7 table 7");
        let seen = announced(&mut monitor, &[Announcement::Rule]).await;
        assert_eq!(seen, [Announcement::Rule].into());
    });
}

#[test]
fn a_reading_that_was_given_up_anywhere_does_not_disturb_the_next() {
    /// How often a task may be ready before Tokio makes it wait.
    const BUDGET: usize = 128;
    let namespace = world();
    // Enough that no list fits in one datagram.
    let lines: String = (0..500)
        .map(|n| {
            let host = format!("{}.{}/32 dev wg0", n / 250, n % 250 + 1);
            format!("addr add 10.9.{host}\nroute add 20.9.{host} proto 84\n")
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    namespace.block_on(|| async {
        ip(&format!("-batch {}", file.path().display()));
        let mut kernel = Kernel::connect().unwrap();
        let mut expected = Observed::default();
        kernel.observe(&Scope::default(), &mut expected).await.unwrap();
        assert!(expected.addresses.len() > 500 && expected.routes.len() == 500);
        let mut given_up = 0;
        for spent in 0..BUDGET {
            tokio::task::yield_now().await;
            for _ in 0..spent {
                tokio::task::consume_budget().await;
            }
            let mut partial = Observed::default();
            {
                let scope = Scope::default();
                let mut reading = Box::pin(kernel.observe(&scope, &mut partial));
                let once = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context)));
                given_up += usize::from(once.await.is_pending());
            }
            let mut observed = Observed::default();
            kernel.observe(&Scope::default(), &mut observed).await.unwrap();
            assert!(observed == expected, "given up with {spent} of the budget spent");
        }
        assert!(given_up > 10, "only {given_up} readings were given up");
    });
}

#[test]
fn what_stays_is_always_read_while_others_go() {
    const STAY: usize = 1_000;
    let namespace = world();
    // The kernel goes on where it was by counting: what goes from the front moves the rest out of its sight.
    let lines = |verb: &str, net: u8, count: usize| -> String {
        (0..count)
            .map(|n| format!("addr {verb} 10.{net}.{}.{}/32 dev wg0\n", n / 250, n % 250 + 1))
            .collect()
    };
    let batch = |lines: String| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        file
    };
    let made = batch(lines("add", 8, 4_000) + &lines("add", 9, STAY));
    namespace.ip(&format!("-batch {}", made.path().display()));
    let gone = batch(lines("del", 8, 4_000));
    let mut churn = namespace.spawn(["ip", "-batch", &gone.path().display().to_string()]);
    namespace.block_on(|| async {
        let mut kernel = Kernel::connect().unwrap();
        while churn.try_wait().unwrap().is_none() {
            let mut observed = Observed::default();
            match kernel.observe(&Scope::default(), &mut observed).await {
                Ok(()) => {
                    let stays = |entry: &&Address| entry.address.to_string().starts_with("10.9.");
                    assert_eq!(observed.addresses.keys().filter(stays).count(), STAY);
                }
                Err(error) => assert_eq!(error.class, ErrorClass::Transient, "{error}"),
            }
        }
    });
    assert!(churn.wait().unwrap().success());
}
