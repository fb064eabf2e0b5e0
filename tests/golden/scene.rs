//! A world told in lines, so that a case is readable.
//!
//! A scene begins with `lo` and with `eth0`, up, 192.0.2.2/24 and 2001:db8::2/64, which leads to every
//! endpoint. Then `world.txt` is carried out line by line; `#` begins a comment:
//!
//! ```text
//! apply FILE                      make the world equal this document, and remember it as the previous one
//! lacks wireguard|tun|nftables|address-protocol|ipv6
//! link NAME                       a foreign link, up
//! link NAME down|up|gone|foreign|ours|mtu N|kind WORD|no carrier|ipv6 off|also NAME
//! engine NAME dead                its process is gone, its link is not
//! address A dev NAME foreign WHO|ours|gone|metric N|noprefixroute|peer PREFIX
//! route PREFIX metric N table T foreign WHO dev NAME|ours dev NAME|moves NAME|gone
//! rule PRIORITY twice|gone|foreign
//! sysctl PATH VALUE
//! firewall edited|gone
//! peer LINK NAME gone|endpoint SOCKET|handshake SECONDS|keepalive N|allow PREFIX|deny PREFIX
//! device LINK port N|mark N|key|stranger
//! secret LINK unreadable REASON|missing
//! resolve NAME ADDRESS            what DNS answers; `resolve NAME nothing` forgets it
//! way ADDRESS NAME MTU            how packets to an endpoint leave; `way nowhere` for all: no route
//! ledger lost                     a new store
//! ```

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tunneld::{
    fake::{World, foreign},
    model::{
        check,
        desired::{Address, Desired, NextHop, Route, RouteKey},
        document::RouteKind,
        ledger::Ledger,
        observed::{LinkKind, ObservedAddress, Owned, Owner, Underlay},
        plan::{self, Inputs, Plan, Secrets},
        types::{Fwmark, HostName, InterfaceName, Mtu, PresharedKey, PrivateKey, PublicKey, Secret},
        wireguard::Peer,
    },
};

/// A world with everything else that a plan depends on.
pub(crate) struct Scene {
    folder: PathBuf,
    pub(crate) world: World,
    pub(crate) ledger: Ledger,
    pub(crate) previous: Option<Desired>,
    resolved: BTreeMap<HostName, IpAddr>,
    unreadable: BTreeMap<InterfaceName, String>,
    missing: Vec<InterfaceName>,
    now: SystemTime,
}

impl Scene {
    /// The scene that everything begins with.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut world = World::new();
        let eth0: InterfaceName = parse("eth0");
        world.add_foreign_link(eth0.clone(), LinkKind::Other(String::new()));
        for address in ["192.0.2.2/24", "2001:db8::2/64"] {
            let address = Address {
                device: eth0.clone(),
                address: parse(address),
            };
            world.add_foreign_address(address, "kernel");
        }
        world.uplink = Some(Underlay {
            device: eth0,
            mtu: Mtu::ETHERNET,
        });
        Self {
            folder: folder.to_owned(),
            world,
            ledger: Ledger::default(),
            previous: None,
            resolved: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            missing: Vec::new(),
            now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }
    }

    /// The scene of a folder's `world.txt`.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut scene = Self::new(folder);
        for line in fs::read_to_string(folder.join("world.txt")).unwrap_or_default().lines() {
            let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
            if !words.is_empty() {
                scene.line(&words);
            }
        }
        scene
    }

    /// A document beside the scene, resolved.
    pub(crate) fn document(&self, file: &str) -> Desired {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match check::validate(&text) {
            Ok((_, desired, _)) => desired,
            Err(errors) => panic!("{}: {}", path.display(), errors[0]),
        }
    }

    /// The plan for `desired` as things are.
    pub(crate) fn plan(&mut self, desired: &Desired) -> Plan {
        let scope = plan::scope(desired, self.previous.as_ref(), &self.ledger, &self.resolved);
        let observed = self.world.read(&scope).unwrap();
        let secrets = self.secrets(desired);
        let inputs = Inputs {
            secrets: &secrets,
            resolved: &self.resolved,
            ledger: &self.ledger,
            now: self.now,
        };
        let plan = plan::diff(desired, &observed, &inputs);
        for (sysctl, value) in plan::saves(&plan.operations, &observed) {
            self.ledger.sysctls.entry(sysctl).or_insert(value);
        }
        if plan.is_empty() {
            self.ledger.settle(desired, &observed);
        }
        plan
    }

    /// Carries a plan out, with the ledger.
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> Result<(), String> {
        for operation in &plan.operations {
            self.world.carry_out(operation).map_err(|error| error.to_string())?;
            self.ledger.record(operation);
        }
        Ok(())
    }

    /// Keys made of names.
    fn secrets(&self, desired: &Desired) -> Secrets {
        let mut secrets = Secrets {
            unreadable: self.unreadable.clone(),
            ..Secrets::default()
        };
        for (name, tunnel) in &desired.wireguard {
            if !self.missing.contains(name) && !self.unreadable.contains_key(name) {
                secrets.private.insert(name.clone(), private_key(name.as_str()));
            }
            for (key, peer) in &tunnel.peers {
                if let Some(file) = &peer.preshared_key_file {
                    let secret = filled(file.to_str().unwrap());
                    secrets
                        .preshared
                        .insert((name.clone(), *key), PresharedKey::new(secret));
                }
            }
        }
        secrets
    }

    /// Carries out one line.
    pub(crate) fn line(&mut self, words: &[&str]) {
        match words {
            ["apply", file] => self.apply(file),
            ["lacks", what] => self.lack(what),
            ["link", name, rest @ ..] => self.link(parse(name), rest),
            ["engine", name, "dead"] => drop(self.world.state.wireguard.remove(&parse::<InterfaceName>(name))),
            ["address", address, "dev", name, rest @ ..] => {
                let entry = Address {
                    device: parse(name),
                    address: parse(address),
                };
                self.address(entry, rest);
            }
            ["route", prefix, "metric", metric, "table", table, rest @ ..] => {
                let key = RouteKey {
                    table: parse(table),
                    prefix: parse(prefix),
                    metric: parse(metric),
                };
                self.route(key, rest);
            }
            ["rule", priority, what] => self.rule(parse(priority), what),
            ["sysctl", path, value] => {
                let sysctl = serde_json::from_value((*path).into()).unwrap();
                self.world.state.sysctls.insert(sysctl, (*value).to_owned());
            }
            ["firewall", "edited"] => self.world.state.firewall_foreign_edit = true,
            ["firewall", "gone"] => self.world.state.firewall = Default::default(),
            ["peer", link, name, rest @ ..] => self.peer(&parse(link), name, rest),
            ["device", link, rest @ ..] => self.device(&parse(link), rest),
            ["secret", link, "missing"] => self.missing.push(parse(link)),
            ["secret", link, "unreadable", reason @ ..] => {
                self.unreadable.insert(parse(link), reason.join(" "));
            }
            ["resolve", name, "nothing"] => drop(self.resolved.remove(&parse::<HostName>(name))),
            ["resolve", name, address] => drop(self.resolved.insert(parse(name), parse(address))),
            ["way", "nowhere"] => self.world.uplink = None,
            ["way", address, device, mtu] => {
                let way = Underlay {
                    device: parse(device),
                    mtu: Mtu(parse(mtu)),
                };
                self.world.state.underlay.insert((Fwmark::NONE, parse(address)), way);
            }
            ["ledger", "lost"] => self.ledger = Ledger::default(),
            _ => panic!("{}: what is {words:?}?", self.folder.display()),
        }
    }

    fn apply(&mut self, file: &str) {
        let desired = self.document(file);
        for _ in 0..2 {
            let plan = self.plan(&desired);
            self.carry_out(&plan).unwrap();
        }
        self.previous = Some(desired);
        self.world.executed.clear();
    }

    fn lack(&mut self, what: &str) {
        let capabilities = &mut self.world.state.capabilities;
        *match what {
            "wireguard" => &mut capabilities.wireguard,
            "tun" => &mut capabilities.tun,
            "nftables" => &mut capabilities.nftables,
            "address-protocol" => &mut capabilities.address_protocol,
            "ipv6" => &mut capabilities.ipv6,
            other => panic!("what is {other}?"),
        } = false;
    }

    fn link(&mut self, name: InterfaceName, words: &[&str]) {
        match words {
            [] => return self.world.add_foreign_link(name, LinkKind::Other("dummy".into())),
            ["down"] => return self.world.bring_down(&name),
            ["gone"] => return self.world.remove_link(&name),
            _ => {}
        }
        let link = self.world.state.links.get_mut(&name).unwrap();
        match words {
            ["up"] => (link.up, link.carrier) = (true, true),
            ["foreign"] => link.owner = Owner::Foreign("no alias".into()),
            ["ours"] => link.owner = Owner::Ours,
            ["mtu", mtu] => link.mtu = Mtu(parse(mtu)),
            ["kind", kind] => link.kind = LinkKind::Other((*kind).into()),
            ["no", "carrier"] => link.carrier = false,
            ["ipv6", "off"] => link.ipv6 = false,
            ["also", name] => link.other_names.push(parse(name)),
            _ => panic!("what is {words:?}?"),
        }
    }

    fn address(&mut self, entry: Address, words: &[&str]) {
        let addresses = &mut self.world.state.addresses;
        match words {
            ["gone"] => drop(addresses.remove(&entry)),
            ["foreign", who] => self.world.add_foreign_address(entry, who),
            ["noprefixroute"] => addresses.get_mut(&entry).unwrap().network = None,
            ["peer", peer] => addresses.get_mut(&entry).unwrap().network = Some(parse(peer)),
            ["metric", metric] => addresses.get_mut(&entry).unwrap().metric = parse(metric),
            ["ours"] => {
                let ours = ObservedAddress::new(&entry, Owner::Ours);
                addresses.insert(entry, ours);
            }
            _ => panic!("what is {words:?}?"),
        }
    }

    fn route(&mut self, key: RouteKey, words: &[&str]) {
        let over = |device: &str| Route {
            kind: RouteKind::Unicast,
            nexthops: vec![NextHop {
                via: None,
                device: Some(parse(device)),
                weight: 1,
                onlink: false,
            }],
            mtu: None,
            source: None,
        };
        let routes = &mut self.world.state.routes;
        match words {
            ["gone"] => drop(routes.remove(&key)),
            ["foreign", who, "dev", device] => drop(routes.insert(key, foreign(over(device), who))),
            ["ours", "dev", device] => {
                let value = over(device);
                let owner = Owner::Ours;
                routes.insert(key, Owned { value, owner });
            }
            ["moves", device] => {
                let hops = &mut routes.get_mut(&key).unwrap().value.nexthops;
                hops.iter_mut().for_each(|hop| hop.device = Some(parse(device)));
            }
            _ => panic!("what is {words:?}?"),
        }
    }

    fn rule(&mut self, priority: u32, what: &str) {
        let rules = &mut self.world.state.rules;
        for (_, count) in rules.iter_mut().filter(|(rule, _)| rule.priority == priority) {
            match what {
                "twice" => count.ours = 2,
                "gone" => count.ours = 0,
                "foreign" => (count.ours, count.foreign) = (0, 1),
                _ => panic!("what is {what}?"),
            }
        }
        rules.retain(|_, count| count.ours + count.foreign > 0);
    }

    fn peer(&mut self, link: &InterfaceName, name: &str, words: &[&str]) {
        let key = self.key(link, name);
        let now = self.now;
        let device = self.world.state.wireguard.get_mut(link).unwrap();
        if words == ["gone"] {
            device.peers.remove(&key);
            return;
        }
        let peer = device.peers.get_mut(&key).unwrap();
        match words {
            ["endpoint", socket] => peer.endpoint = Some(parse(socket)),
            ["handshake", seconds] => peer.last_handshake = Some(now - Duration::from_secs(parse(seconds))),
            ["keepalive", seconds] => peer.keepalive = parse(seconds),
            ["allow", prefix] => drop(peer.allowed_ips.insert(parse(prefix))),
            ["deny", prefix] => drop(peer.allowed_ips.remove(&parse(prefix))),
            _ => panic!("what is {words:?}?"),
        }
    }

    fn device(&mut self, link: &InterfaceName, words: &[&str]) {
        let device = self.world.state.wireguard.get_mut(link).unwrap();
        match words {
            ["port", port] => device.listen_port = parse(port),
            ["mark", mark] => device.fwmark = parse(mark),
            ["key"] => {
                device.public_key = Some(private_key("another").public_key());
                device.private_key = Some(private_key("another"));
            }
            ["stranger"] => {
                let key = private_key("stranger").public_key();
                device.peers.insert(key, Peer::default());
            }
            _ => panic!("what is {words:?}?"),
        }
    }

    fn key(&self, link: &InterfaceName, name: &str) -> PublicKey {
        let tunnel = &self.previous.as_ref().unwrap().wireguard[link];
        let named = |peer: &&PublicKey| tunnel.peers[*peer].name.as_deref() == Some(name);
        *tunnel.peers.keys().find(named).unwrap()
    }
}

/// Everything in the world that is not ours.
pub(crate) fn foreign_objects(world: &World) -> String {
    let state = &world.state;
    let known = state.capabilities.address_protocol;
    let links: Vec<_> = state.links.iter().filter(|(_, link)| !link.owner.is_ours()).collect();
    let addresses = state.addresses.iter();
    let addresses: Vec<_> = addresses.filter(|(_, has)| known && !has.owner.is_ours()).collect();
    let routes: Vec<_> = state
        .routes
        .iter()
        .filter(|(_, there)| !there.owner.is_ours())
        .collect();
    let rules = state.rules.iter().filter(|(_, count)| count.foreign > 0);
    let rules: Vec<_> = rules.map(|(rule, count)| (rule, count.foreign)).collect();
    format!("{links:?} {addresses:?} {routes:?} {rules:?}")
}

fn private_key(seed: &str) -> PrivateKey {
    PrivateKey::new(filled(seed))
}

fn filled(seed: &str) -> Secret {
    let mut bytes = [0; 32];
    for (byte, seed) in bytes.iter_mut().zip(seed.bytes().cycle()) {
        *byte = seed;
    }
    Secret::from_bytes(bytes)
}

fn parse<T: FromStr<Err: Debug>>(word: &str) -> T {
    word.parse().unwrap_or_else(|error| panic!("{word}: {error:?}"))
}
