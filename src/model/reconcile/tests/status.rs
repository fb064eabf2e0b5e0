//! What status says of tunnels and peers, in every state that has a word.

use std::time::Duration;

use super::{Answer, Bench, Disk, Event, World, desired, first, fresh_handshake, name, tunnel, world};
use crate::model::{
    observed::LinkKind,
    ports::{Backend, ErrorClass},
    report::{self, Facts},
    status::{Status, TunnelState},
};

fn status(bench: &Bench) -> Status {
    report::status(&bench.machine, Facts::default(), bench.now)
}

fn state(bench: &Bench) -> TunnelState {
    status(bench).tunnels[0].state.clone()
}

fn with(world: World, text: &str) -> Bench {
    let mut bench = Bench::started(world, Disk::default());
    let text = format!("[appliance]\nreconcile-interval = 0\n{text}");
    bench.apply(&desired(&text)).unwrap().unwrap();
    bench
}

fn reason(state: &TunnelState, word: &str) -> String {
    assert_eq!(state.word(), word, "{state:?}");
    state.reason().to_owned()
}

#[test]
fn a_tunnel_is_up_while_its_peer_shakes_hands() {
    let mut bench = with(world(), &tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820"));
    assert_eq!(reason(&state(&bench), "no-handshake"), "no handshake yet");
    fresh_handshake(&mut bench);
    assert_eq!(state(&bench), TunnelState::Up);
    bench.pass(Duration::from_secs(181));
    assert_eq!(reason(&state(&bench), "no-handshake"), "no handshake for 181 s");
    // Nobody knows how long ago a handshake was that the clock has not come to.
    fresh_handshake(&mut bench);
    bench.now.wall -= Duration::from_secs(3600);
    assert_eq!(
        reason(&state(&bench), "no-handshake"),
        "no handshake since the clock was set back: the last one is 3600 s ahead of it"
    );
    bench.now.wall += Duration::from_secs(3600);

    let shown = &status(&bench).tunnels[0];
    assert_eq!(shown.backend, Some(Backend::Kernel));
    assert_eq!((shown.listen_port, shown.mtu, shown.routes), (51820, Some(1420), 1));
    assert_eq!(shown.addresses, ["10.10.10.1/30"]);
    assert_eq!(
        shown.public_key,
        bench.machine.secrets().private[&name("wg0")].public_key().into()
    );
    assert_eq!(shown.peers[0].current_endpoint, "192.0.2.1:51820".parse().ok());
    let counts = &status(&bench).routes;
    assert_eq!((counts[0].count, counts[0].class.as_str()), (1, "static"));
}

#[test]
fn a_peer_that_only_comes_to_us_is_not_missed() {
    let text = tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820");
    let passive = text
        .replace("endpoint = \"192.0.2.1:51820\"\n", "")
        .replace("keepalive = 25\n", "");
    let bench = with(world(), &passive);
    assert_eq!(state(&bench), TunnelState::Up);
    assert_eq!(status(&bench).tunnels[0].peers[0].state.word(), "no-handshake");
}

#[test]
fn an_endpoint_without_a_way_or_an_address_is_named() {
    let mut cut_off = world();
    cut_off.uplink = None;
    let bench = with(cut_off, &tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820"));
    assert_eq!(reason(&state(&bench), "no-route-to-endpoint"), "no route to 192.0.2.1");

    let mut bench = with(world(), &tunnel("wg0", 51820, "10.10.10.1/30", "vpn.example.net:51820"));
    assert_eq!(reason(&state(&bench), "endpoint-unresolved"), "no server answers");
    let answer = Answer {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        ttl: Duration::from_secs(60),
    };
    bench.dns.insert("vpn.example.net".parse().unwrap(), Ok(answer));
    bench.pass(Duration::from_secs(10));
    assert_eq!(state(&bench).word(), "no-handshake");
}

#[test]
fn what_waits_and_what_failed_says_why() {
    let mut bare = world();
    bare.state.capabilities.wireguard = false;
    bare.state.capabilities.tun = false;
    let bench = with(bare, &tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820"));
    assert!(!reason(&state(&bench), "waiting").is_empty());
    assert_eq!(status(&bench).tunnels[0].backend, None);

    let mut taken = world();
    taken.add_foreign_link(name("wg0"), LinkKind::Other("dummy".into()));
    let bench = with(taken, &tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820"));
    assert!(!reason(&state(&bench), "failed").is_empty());
    assert!(!status(&bench).conflicts.is_empty());

    let mut bench = Bench::started(world(), Disk::default());
    bench.apply(&first()).unwrap().unwrap();
    bench.world.remove_link(&name("wg0"));
    bench.world.fail(0, ErrorClass::Permission);
    bench.event(Event::Refresh);
    assert!(reason(&state(&bench), "failed").contains("a fault was asked for"));
}

#[test]
fn a_way_that_is_lost_is_told_at_once() {
    let mut bench = with(world(), &tunnel("wg0", 51820, "10.10.10.1/30", "192.0.2.1:51820"));
    fresh_handshake(&mut bench);
    assert_eq!(state(&bench), TunnelState::Up);
    bench.world.uplink = None;
    bench.event(Event::Refresh);
    assert_eq!(reason(&state(&bench), "no-route-to-endpoint"), "no route to 192.0.2.1");
}
