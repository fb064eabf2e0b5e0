//! Both directions against each other, against the protocol's own words, and against arbitrary bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::model::{
    fuzz::{self, feed},
    types::{Fwmark, Prefix, PresharedKey, PrivateKey, PublicKey, Secret},
    wireguard::{AllowedIpChange, Device, DeviceChange, Peer, PeerChange},
};

/// The example of `wireguard.com/xplatform`, section "Example Dialog", made complete.
const SET: &str = "set=1
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
fwmark=0
listen_port=12912
replace_peers=true
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
replace_allowed_ips=true
allowed_ip=192.168.4.4/32
endpoint=[abcd:23::33%2]:51820
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
protocol_version=1
update_only=true
replace_allowed_ips=true
allowed_ip=192.168.4.6/24
allowed_ip=-10.0.0.0/8
persistent_keepalive_interval=111
endpoint=182.122.22.19:3233
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
remove=true

";

fn requests(text: &str) -> Vec<Result<Request, Malformed>> {
    fuzz::requests(text.as_bytes(), &no_zones)
}

fn answers(text: &str) -> Vec<Result<Answer, Malformed>> {
    fuzz::answers(text.as_bytes())
}

fn change(text: &str) -> DeviceChange {
    match requests(text).pop() {
        Some(Ok(Request::Set(change))) => change,
        other => panic!("{other:?}"),
    }
}

fn failure(text: &str) -> Malformed {
    requests(text).remove(0).unwrap_err()
}

#[test]
fn the_protocols_own_example() {
    let change = change(SET);
    assert_eq!(change.listen_port, Some(12912));
    assert_eq!(change.fwmark, Some(Fwmark::NONE));
    assert!(change.replace_peers && change.private_key.is_some());
    let [first, second, third] = change.peers.as_slice() else {
        panic!("three peers")
    };
    assert_eq!(first.endpoint.unwrap().to_string(), "[abcd:23::33%2]:51820");
    assert!(matches!(first.preshared_key, Some(Some(_))));
    assert!(second.update_only && second.replace_allowed_ips && second.preshared_key.is_none());
    assert_eq!(second.keepalive, Some(111));
    let allowed: Vec<String> = second.allowed_ips.iter().map(|a| a.prefix.to_string()).collect();
    assert_eq!(allowed, ["192.168.4.0/24", "10.0.0.0/8"], "host bits are cleared");
    assert!(!second.allowed_ips[0].remove && second.allowed_ips[1].remove);
    assert!(third.remove);
}

#[test]
fn a_zone_may_be_an_interfaces_name() {
    let mut parser = RequestParser::default();
    let zones = |name: &str| (name == "eth0").then_some(7);
    let key = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
    let text = format!("set=1\npublic_key={key}\nendpoint=[fe80::1%eth0]:1\n\n");
    let parsed = feed(text.as_bytes(), |line| parser.line(line.unwrap(), &zones).unwrap());
    let [Request::Set(change)] = parsed.as_slice() else {
        panic!("{parsed:?}")
    };
    assert_eq!(change.peers[0].endpoint.unwrap().to_string(), "[fe80::1%7]:1");
}

#[test]
fn several_requests_on_one_connection() {
    let parsed = requests(
        "get=1\n\nset=1\nlisten_port=x\nfwmark=1\n\nset=1\n\ntunneld=version\n\ntunneld=handover\nexecutable=/a\n\n\
                  tunneld=handover\n\n",
    );
    assert_eq!(parsed.len(), 6);
    assert_eq!(parsed[0], Ok(Request::Get));
    let error = parsed[1].as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: listen_port: not a decimal number in range",
        "and what follows is skipped up to the empty line"
    );
    assert_eq!(parsed[2], Ok(Request::Set(DeviceChange::default())));
    assert_eq!(parsed[3], Ok(Request::Version));
    assert_eq!(parsed[4], Ok(Request::Handover("/a".into())));
    let error = parsed[5].as_ref().unwrap_err();
    assert_eq!(error.to_string(), "line 2: executable: not an absolute path");
}

#[test]
fn what_is_refused_and_how() {
    let key = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
    for line in [
        "private_key=00",
        "private_key=g8402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "fwmark=0x1",
        "fwmark=4294967296",
        "replace_peers=false",
        "replace_peers=",
        "endpoint=192.0.2.1:1",
        "nonsense=1",
        "public_key=",
        &format!("public_key={key}\nlisten_port=1"),
        &format!("public_key={key}\nprotocol_version=2"),
        &format!("public_key={key}\nendpoint=192.0.2.1"),
        &format!("public_key={key}\nendpoint=example.net:1"),
        &format!("public_key={key}\nendpoint=[fe80::1%nowhere]:1"),
        &format!("public_key={key}\nallowed_ip=10.0.0.1"),
        &format!("public_key={key}\nallowed_ip=10.0.0.0/33"),
        &format!("public_key={key}\nallowed_ip=--10.0.0.0/8"),
        &format!("public_key={key}\npersistent_keepalive_interval=65536"),
        &format!("public_key={key}\nremove=1"),
        &format!("public_key={key}\npreshared_key=1"),
    ] {
        let error = failure(&format!("set=1\n{line}\n\n"));
        assert_eq!(error.errno, Errno::Invalid, "{line}");
    }
    for text in [
        "\n",
        "get=2\n\n",
        "GET / HTTP/1.1\r\n",
        "set=1\nno equals sign\n\n",
        "\u{e9}=1\n\n",
    ] {
        assert_eq!(failure(text).errno, Errno::Protocol, "{text:?}");
    }
    assert_eq!(failure("get=1\nx=1\n\n").errno, Errno::Invalid);
}

#[test]
fn a_request_is_bounded() {
    let mut parser = RequestParser::default();
    assert_eq!(parser.line(b"set=1", &no_zones), Ok(None));
    let error = (0..MAX_REQUEST).find_map(|_| parser.line(b"listen_port=1", &no_zones).err());
    assert_eq!(error.unwrap().errno, Errno::TooLong);

    let mut lines = Lines::default();
    let space = lines.space();
    space.fill(b'x');
    let count = space.len();
    lines.filled(count);
    assert_eq!(lines.next(), Err(LineTooLong));
}

#[test]
fn an_error_never_repeats_a_value() {
    let secret = "c84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027";
    for line in [
        format!("private_key={secret}"),
        format!("{secret}=1"),
        secret.to_owned(),
        format!("private_key ={secret}"),
    ] {
        let error = failure(&format!("set=1\n{line}\n\n"));
        assert!(!format!("{error} {error:?}").contains("c84b"), "{error}");
    }
}

#[test]
fn what_other_implementations_answer() {
    let text = "private_key=0000000000000000000000000000000000000000000000000000000000000000\n\
        own_public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\n\
        public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\n\
        last_handshake_time_sec=0\nlast_handshake_time_nsec=0\nnew_key=1\nerrno=0\n\n";
    let answer = answers(text).remove(0).unwrap();
    assert_eq!(answer.device.private_key, None);
    assert!(answer.device.peers.values().all(|peer| peer.last_handshake.is_none()));
    for (text, errno) in [("errno=-22\n\n", 22), ("errno=22\n\n", 22), ("errno=0\n\n", 0)] {
        assert_eq!(answers(text).remove(0).unwrap().errno, errno);
    }
    for bad in [
        "\n",
        "errno=x\n\n",
        "listen_port=1\n\n",
        "x\n",
        "last_handshake_time_nsec=1\n\n",
    ] {
        assert!(answers(bad).remove(0).is_err(), "{bad:?}");
    }
}

#[test]
fn an_errno_is_negative() {
    assert_eq!(format_errno(None), "errno=0\n\n");
    assert_eq!(format_errno(Some(Errno::Invalid)), "errno=-22\n\n");
    assert_eq!(format_errno(Some(Errno::Kernel(98))), "errno=-98\n\n");
    let answer = answers(&format_version("0.1.0")).remove(0).unwrap();
    assert_eq!((answer.errno, answer.version.as_deref()), (0, Some("0.1.0")));
}

fn secret() -> impl Strategy<Value = Secret> {
    // Never all zero: that means none.
    any::<[u8; 32]>().prop_map(|mut bytes| {
        bytes[0] |= 1;
        Secret::from_bytes(bytes)
    })
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn prefix() -> impl Strategy<Value = Prefix> {
    any::<(IpAddr, u8)>().prop_map(|(address, length)| {
        let most = if address.is_ipv6() { 128 } else { 32 };
        Prefix::truncated(IpNet::new_assert(address, length % (most + 1)))
    })
}

prop_compose! {
    fn endpoint()(address in any::<IpAddr>(), port in any::<u16>(), scope in any::<u32>()) -> SocketAddr {
        let mut endpoint = SocketAddr::new(address, port);
        if let SocketAddr::V6(v6) = &mut endpoint {
            v6.set_scope_id(scope);
        }
        endpoint
    }
}

prop_compose! {
    fn allowed_ip()(prefix in prefix(), remove in any::<bool>()) -> AllowedIpChange {
        AllowedIpChange { prefix, remove }
    }
}

prop_compose! {
    fn peer_change()(
        public_key in public_key(),
        flags in any::<[bool; 3]>(),
        preshared_key in option::of(option::of(secret().prop_map(PresharedKey::new))),
        endpoint in option::of(endpoint()),
        keepalive in any::<Option<u16>>(),
        allowed_ips in vec(allowed_ip(), 0..5),
    ) -> PeerChange {
        let [remove, update_only, replace_allowed_ips] = flags;
        if remove {
            return PeerChange { remove, ..PeerChange::new(public_key) };
        }
        PeerChange { public_key, remove, update_only, preshared_key, endpoint, keepalive, replace_allowed_ips, allowed_ips }
    }
}

prop_compose! {
    fn device_change()(
        private_key in option::of(any::<[u8; 32]>().prop_map(|bytes| PrivateKey::new(Secret::from_bytes(bytes)))),
        listen_port in any::<Option<u16>>(),
        fwmark in option::of(any::<u32>().prop_map(Fwmark::new)),
        replace_peers in any::<bool>(),
        peers in vec(peer_change(), 0..5),
    ) -> DeviceChange {
        DeviceChange { private_key, listen_port, fwmark, replace_peers, peers }
    }
}

prop_compose! {
    fn peer()(
        preshared_key in option::of(secret().prop_map(PresharedKey::new)),
        endpoint in option::of(endpoint()),
        keepalive in any::<u16>(),
        allowed_ips in vec(prefix(), 0..5),
        handshake in option::of((1..u64::from(u32::MAX), 0..1_000_000_000_u32)),
        received_bytes in any::<u64>(),
        sent_bytes in any::<u64>(),
    ) -> Peer {
        Peer {
            preshared_key,
            endpoint,
            keepalive,
            allowed_ips: allowed_ips.into_iter().collect::<BTreeSet<_>>(),
            last_handshake: handshake.map(|(s, n)| UNIX_EPOCH + Duration::new(s, n)),
            received_bytes,
            sent_bytes,
        }
    }
}

prop_compose! {
    fn device()(
        private_key in option::of(secret().prop_map(PrivateKey::new)),
        listen_port in any::<u16>(),
        fwmark in any::<u32>(),
        peers in vec((public_key(), peer()), 0..5),
    ) -> Device {
        Device {
            public_key: private_key.as_ref().map(PrivateKey::public_key),
            private_key,
            listen_port,
            fwmark: Fwmark::new(fwmark),
            peers: peers.into_iter().collect::<BTreeMap<_, _>>(),
        }
    }
}

/// Lines that look right, with mistakes in them.
fn near_misses() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[a-z_]{1,12}=[0-9a-f:./%-]{0,70}",
        "(get|set|tunneld)=(1|version)",
        "public_key=[0-9a-f]{64}",
        "(private|preshared)_key=[0-9a-f]{63,65}",
        "(allowed_ip|endpoint)=[-\\[]?[0-9a-f:.%]{1,20}(/[0-9]{1,3})?(\\]:[0-9]{1,6})?",
        "(errno|rx_bytes|last_handshake_time_n?sec|listen_port|fwmark)=-?[0-9]{0,24}",
        "",
    ];
    vec(line, 0..30).prop_map(|lines| lines.join("\n").into_bytes())
}

proptest! {
    #[test]
    fn a_request_comes_back(change in device_change()) {
        let request = Request::Set(change);
        let text = format_request(&request);
        prop_assert_eq!(requests(&text), vec![Ok(request)]);
        prop_assert!(text.lines().all(|line| line.len() * 3 <= MAX_LINE));
    }

    #[test]
    fn an_answer_comes_back(device in device()) {
        let text = format_device(&device);
        let answer = Answer { errno: 0, device, version: None };
        prop_assert_eq!(answers(&text), vec![Ok(answer)]);
    }

    #[test]
    fn keys_are_written_once(change in device_change(), device in device()) {
        let room = [request::capacity(&change), answer::capacity(&device)];
        let texts = [format_request(&Request::Set(change)), format_device(&device)];
        for (text, room) in texts.iter().zip(room) {
            prop_assert!(text.len() <= room, "{} bytes, room for {room}: the string moved", text.len());
        }
    }

    #[test]
    fn nothing_panics(bytes in prop_oneof![vec(any::<u8>(), 0..5000), near_misses()]) {
        let mut parser = RequestParser::default();
        feed(&bytes, |line| parser.line(line.ok()?, &no_zones).transpose());
        let mut parser = AnswerParser::default();
        feed(&bytes, |line| parser.line(line.ok()?).transpose());
    }
}
