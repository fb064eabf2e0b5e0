//! The page in both formats.

use super::*;
use crate::model::status::{PeerStatus, Tunnel, TunnelState};

fn status() -> Status {
    let peer = PeerStatus {
        public_key: "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=".parse().unwrap(),
        name: Some("a \"quoted\"\nname".into()),
        state: TunnelState::Up,
        endpoint: None,
        current_endpoint: None,
        last_handshake: Some(1000),
        received_bytes: 5,
        sent_bytes: 7,
        allowed_ips: vec!["10.0.0.0/8".into()],
    };
    let tunnel = Tunnel {
        name: "wg0".parse().unwrap(),
        state: TunnelState::Up,
        backend: Some(crate::model::ports::Backend::Kernel),
        engine: None,
        public_key: None,
        listen_port: 1,
        fwmark: Default::default(),
        mtu: Some(1420),
        addresses: vec![],
        routes: 2,
        repairs: 3,
        peers: vec![peer],
    };
    Status {
        version: "1".into(),
        tunnels: vec![tunnel],
        repairs: [("add-route".to_owned(), 4)].into(),
        ..Status::default()
    }
}

#[test]
fn both_formats_name_counters_their_own_way() {
    let instruments = Instruments::default();
    instruments.applied("applied", 0.02);
    let (open, _) = encode(status(), &instruments, 1010, false, true).unwrap();
    assert!(open.contains("# TYPE tunneld_repairs counter\n"), "{open}");
    assert!(open.ends_with("# EOF\n"));
    let (text, _) = encode(status(), &instruments, 1010, false, false).unwrap();
    assert!(text.contains("# TYPE tunneld_repairs_total counter\n"), "{text}");
    assert!(text.contains("tunneld_repairs_total{kind=\"add-route\"} 4\n"));
    assert!(
        text.contains("tunneld_repairs_total{kind=\"set-mtu\"} 0\n"),
        "before the first one, too"
    );
    assert!(text.contains("tunneld_applies_total{outcome=\"applied\"} 1\n"));
    assert!(text.contains("tunneld_tunnel_state{interface=\"wg0\",state=\"up\"} 1"));
    assert!(text.contains("tunneld_apply_duration_seconds_count 1\n"));
    assert!(!text.contains("EOF") && !text.contains("allowed_ips"));
}

#[test]
fn labels_are_escaped_and_allowed_ips_come_on_request() {
    let (text, _) = encode(status(), &Instruments::default(), 1010, true, false).unwrap();
    assert!(
        text.contains("friendly_name=\"a \\\"quoted\\\"\\nname\",allowed_ips=\"10.0.0.0/8\"} 7"),
        "{text}"
    );
    assert!(
        text.contains("tunneld_peer_handshake_age_seconds{") && text.contains("} 10.0\n"),
        "{text}"
    );
}

#[test]
fn the_format_follows_the_accept_header() {
    assert!(wants_openmetrics(Some(
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    )));
    assert!(!wants_openmetrics(Some("text/plain")));
    assert!(!wants_openmetrics(Some("application/openmetrics-text; q=0")));
    assert!(!wants_openmetrics(None));
}
