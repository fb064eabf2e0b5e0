//! Endpoint names: by TTL, and when a peer is silent.

use super::*;

#[test]
fn names_are_asked_for_by_ttl_and_block_nothing() {
    let mut bench = Bench::started(world(), Disk::default());
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "vpn.example.net:51820");
    bench.apply(&desired(&text)).unwrap().unwrap();
    let endpoint = |bench: &Bench| {
        bench.world.state.wireguard[&name("wg0")]
            .peers
            .values()
            .next()
            .unwrap()
            .endpoint
    };
    assert_eq!(endpoint(&bench), None);
    let host = "vpn.example.net".parse().unwrap();
    let answer = |address: &str, ttl| {
        Ok(Answer {
            addresses: vec![address.parse().unwrap()],
            ttl: Duration::from_secs(ttl),
        })
    };
    bench.dns.insert(host, answer("192.0.2.1", 60));
    bench.pass(Duration::from_secs(10));
    assert_eq!(endpoint(&bench).unwrap().to_string(), "192.0.2.1:51820");
    fresh_handshake(&mut bench);
    let asked = bench.questions;
    let host: super::super::HostName = "vpn.example.net".parse().unwrap();
    bench.dns.insert(host.clone(), answer("192.0.2.2", 1));
    bench.pass(Duration::from_secs(61));
    assert!((1..4).contains(&(bench.questions - asked)));
    assert_eq!(endpoint(&bench).unwrap().to_string(), "192.0.2.2:51820");
    bench.dns.insert(host, Err("SERVFAIL".into()));
    bench.pass(Duration::from_secs(60));
    assert_eq!(
        endpoint(&bench).unwrap().to_string(),
        "192.0.2.2:51820",
        "the old address stays"
    );
    assert!(bench.machine.repairs().by_kind.is_empty());
}

#[test]
fn a_silent_peer_is_a_reason_to_ask_before_the_ttl_ends() {
    let mut bench = Bench::started(world(), Disk::default());
    let host: super::super::HostName = "vpn.example.net".parse().unwrap();
    let addresses = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let ttl = Duration::from_secs(3600);
    bench.dns.insert(host, Ok(Answer { addresses, ttl }));
    bench
        .apply(&desired(&tunnel(
            "wg0",
            51820,
            "10.10.10.1/30",
            "vpn.example.net:51820",
        )))
        .unwrap()
        .unwrap();
    bench.pass(Duration::from_millis(10));
    fresh_handshake(&mut bench);
    let asked = bench.questions;
    bench.pass(Duration::from_secs(130));
    assert_eq!(bench.questions, asked);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.questions, asked + 1);
    let peer = bench.world.state.wireguard[&name("wg0")]
        .peers
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(
        peer.endpoint.unwrap().to_string(),
        "192.0.2.2:51820",
        "the next address is tried"
    );
    bench.pass(Duration::from_secs(600));
    assert!(
        (3..8).contains(&(bench.questions - asked)),
        "{}",
        bench.questions - asked
    );
}
