//! What must hold: after every step, after every run of operations, and when nothing happens any more.

use std::{collections::BTreeSet, time::Duration};

use super::{Sim, landscape::parsed};
use crate::model::{
    desired::{Address, Desired, RouteKey, Sysctl},
    observed::{LinkKind, Observed},
    plan::{Object, Plan},
    reconcile::Machine,
    report::{self, Facts},
    status::State,
    types::InterfaceName,
};

/// A trial may outlive its deadline by what an apply, a stuck step and a busy processor take.
const LATE: Duration = Duration::from_secs(360);

/// What was announced is looked at after this time; a world that takes long to read is read that seldom.
const SEEN: Duration = Duration::from_secs(240);

impl Sim {
    fn machine(&self) -> Option<&Machine> {
        self.process.as_ref().map(|process| &process.machine)
    }

    /// After every step of the machine.
    pub(super) fn proves_step(&mut self) {
        self.witness.nobody_waits(self.time);
        let Some(process) = &self.process else { return };
        let machine = &process.machine;
        let now = self.time - process.born;
        assert!(
            !process.waits || !machine.is_idle(),
            "an answer is on its way, and nobody waits for it"
        );
        let right = matches!(machine.state(), State::InSync | State::Empty | State::Starting);
        let owes = machine.saving.owes(&machine.ledger) || machine.store_trouble().is_some();
        let done = right && !owes && machine.job.is_none() && machine.confirming.is_empty() && machine.trial.is_none();
        let deadline = machine.deadline();
        assert!(
            done || process.waits || deadline.is_some(),
            "nothing comes: {:?}",
            machine.state()
        );
        let seen = !self.unseen || process.waits || machine.live.is_none();
        let soon = deadline.is_some_and(|deadline| deadline <= now + SEEN);
        assert!(seen || soon, "what was announced is not looked at");
        if let Some(trial) = &machine.trial {
            assert!(now < trial.deadline + LATE, "the deadline has passed: {trial:?}");
        }
        Self::proves_small(machine);
    }

    /// Everything that the machine keeps is bounded by what it is about.
    fn proves_small(machine: &Machine) {
        let mut documents = vec![machine.live.as_ref().map(|live| &*live.desired)];
        documents.push(machine.job.as_ref().map(|job| job.desired()));
        documents.push(machine.trial.as_ref().map(|trial| &*trial.fallback.desired));
        let documents: Vec<&Desired> = documents.into_iter().flatten().collect();
        let size = |document: &&Desired| {
            let peers: usize = document.wireguard.values().map(|tunnel| 1 + tunnel.peers.len()).sum();
            peers + document.addresses.len() + document.routes.len() + document.rules.len() + document.sysctls.len()
        };
        let objects: usize = documents.iter().map(size).sum();
        let world = machine.observed.as_ref();
        let links = world.map_or(0, |world| world.links.len());
        assert!(machine.names.len() <= objects, "names: {:?}", machine.names);
        assert!(
            machine.fights.len() <= 4 * objects + 100,
            "fights: {:?}",
            machine.fights
        );
        assert!(
            machine.confirming.len() <= 64,
            "{} wait to confirm",
            machine.confirming.len()
        );
        let ledger = &machine.ledger;
        let kept = ledger.links.len() + ledger.addresses.len() + ledger.sysctls.len() + ledger.endpoints.len();
        assert!(kept <= 4 * objects + 4 * links + 20, "{ledger:?}");
    }

    /// After a run of operations that was carried out while nothing else changed: the world is whole, not a
    /// mixture of what it was and what it should be.
    pub(super) fn proves_whole(&mut self) {
        if self.reverts || !self.witness.is_undisturbed() {
            return;
        }
        let Some(process) = &self.process else { return };
        let machine = &process.machine;
        let planned = machine.reading.last.expect("it was planned");
        let rests = machine.fights.release(planned.monotonic).is_some();
        if rests
            || machine
                .job
                .as_ref()
                .is_some_and(|job| job.is_rolling_back() || job.wants_secrets())
        {
            return;
        }
        let (desired, secrets) = match (&machine.job, &machine.live) {
            (Some(job), _) => (job.desired(), job.secrets()),
            (None, Some(live)) => (&*live.desired, &machine.secrets),
            (None, None) => return,
        };
        let scope = machine.scope_with(desired);
        let truth = self.world.clone().read(&scope).unwrap();
        let rest = machine.plan_for(desired, &truth, secrets, planned.wall);
        assert!(rest.is_empty(), "still to do: {:#?}", lines(&rest));
        self.witness.count(|counts| &mut counts.whole);
    }

    /// What was just acknowledged goes when it was asked to, by what the process and the disk remember.
    pub(super) fn proves_deadline(&self, confirm: Option<Duration>) {
        let Some(process) = &self.process else { return };
        let remembered = process
            .machine
            .trial
            .as_ref()
            .map(|trial| process.born + trial.deadline);
        let stored = self.disk.trial.as_ref().map(|trial| trial.deadline);
        for deadline in [remembered, stored] {
            assert_eq!(deadline.is_some(), confirm.is_some(), "whether it is on trial");
            let (Some(deadline), Some(time)) = (deadline, confirm) else {
                continue;
            };
            let due = self.time + time;
            assert!(deadline <= due && due <= deadline + LATE, "{deadline:?} for {due:?}");
        }
    }

    /// The world equals the document in force, if nothing changed since it was read.
    pub(super) fn proves_equal(&mut self, because: &str) {
        let Some(machine) = self
            .machine()
            .filter(|_| !self.reverts && self.witness.is_undisturbed())
        else {
            return;
        };
        let Some(live) = &machine.live else { return };
        let truth = self.world.clone().read(&machine.scope_with(&live.desired)).unwrap();
        let wall = machine.reading.last.expect("it was read").wall;
        let rest = machine.plan_for(&live.desired, &truth, &machine.secrets, wall);
        assert!(rest.is_empty(), "{because}, but still to do: {:#?}", lines(&rest));
        self.witness.count(|counts| &mut counts.equal);
    }

    /// When things have settled: all is as the document in force says, in the kernel and in the store.
    pub(super) fn proves_settled(&mut self) {
        let Some(machine) = self.machine() else {
            panic!("the process is not there")
        };
        let state = machine.state();
        assert!(
            matches!(state, State::InSync | State::Empty),
            "{state:?} {:?}",
            lines(&machine.plan)
        );
        assert_eq!((machine.job.is_some(), machine.confirming.len()), (false, 0));
        assert_eq!(machine.store_trouble(), None);
        assert_eq!(machine.ledger, self.disk.ledger, "the ledger is in the store");
        assert_eq!(self.disk.pending, None, "nothing is half done");
        let live = machine.live.clone().filter(|live| live.revision.is_some());
        assert_eq!(live, self.disk.live, "what is in force");
        assert_eq!(machine.trial.is_some(), self.disk.trial.is_some(), "what is on trial");
        if let Some(live) = machine.live.clone() {
            let scope = machine.scope_with(&live.desired);
            let truth = self.world.clone().read(&scope).unwrap();
            self.proves_objects(&live.desired, &truth);
            self.proves_settings(&live.desired);
        }
        self.proves_forgotten();
        self.witness.count(|counts| &mut counts.settled);
    }

    /// What is gone is forgotten, and all that is known can be shown.
    fn proves_forgotten(&self) {
        let Some(process) = &self.process else { return };
        let machine = &process.machine;
        let desired = machine.live.clone().unwrap_or_default().desired;
        let world = machine.observed.as_ref();
        let known = |name: &&InterfaceName| {
            let there = world.is_some_and(|world| world.links.contains_key(*name));
            there || desired.wireguard.contains_key(*name)
        };
        let unknown = |name: &&InterfaceName| !known(name);
        let tunnel = |name: &&InterfaceName| desired.wireguard.contains_key(*name);
        let counted = machine.repairs().by_link.keys().find(|name| !tunnel(name));
        assert_eq!(counted, None, "repairs of a link that is gone");
        if machine.live.is_some() {
            assert_eq!(
                machine.ledger.links.iter().find(unknown),
                None,
                "a link in the ledger that is gone"
            );
        }
        let size = format!("{machine:?}").len();
        let objects = desired.wireguard.len() + desired.routes.len() + world.map_or(0, |world| world.links.len());
        assert!(
            size < 20_000 + 4_000 * objects,
            "the machine has {size} bytes: {machine:#?}"
        );
        let status = report::status(machine, Facts::default(), self.now(process));
        assert_eq!(status.tunnels.len(), desired.wireguard.len());
    }

    /// Without help of the plan, but for what it says is waiting or in the way.
    fn proves_objects(&self, desired: &Desired, truth: &Observed) {
        let Some(machine) = self.machine() else { return };
        let plan = &machine.plan;
        let excused = |object: Object| {
            let waits = plan.waiting.iter().any(|entry| entry.object == object);
            waits || plan.conflicts.iter().any(|entry| entry.object == object)
        };
        let names: BTreeSet<_> = desired.wireguard.keys().cloned().collect();
        let ours = truth.links.iter().filter(|(_, link)| link.owner.is_ours());
        let links: BTreeSet<InterfaceName> = ours.map(|(name, _)| name.clone()).collect();
        assert!(links.is_subset(&names), "links that nobody wants: {links:?}");
        for (name, tunnel) in &desired.wireguard {
            if excused(Object::Link(name.clone())) {
                continue;
            }
            assert!(links.contains(name), "link {name} is missing");
            let (link, device) = (&truth.links[name], &truth.wireguard[name]);
            assert!(link.up && link.kind != LinkKind::Other(String::new()), "{link:?}");
            assert_eq!(device.public_key, Some(machine.secrets.private[name].public_key()));
            assert_eq!(device.fwmark, tunnel.fwmark);
            assert!(
                tunnel.listen_port.is_none_or(|port| port == device.listen_port),
                "{device:?}"
            );
            assert!(device.peers.keys().eq(tunnel.peers.keys()), "peers of {name}");
            for (has, peer) in device.peers.values().zip(tunnel.peers.values()) {
                assert_eq!((&has.allowed_ips, has.keepalive), (&peer.allowed_ips, peer.keepalive));
                assert_eq!(has.preshared_key.is_some(), peer.preshared_key_file.is_some());
            }
        }
        let own: BTreeSet<&Address> = truth
            .addresses
            .iter()
            .filter(|(entry, has)| has.owner.is_ours() || !self.witness.is_stranger(entry))
            .map(|(entry, _)| entry)
            .filter(|entry| {
                truth.links.get(&entry.device).is_none_or(|link| link.owner.is_ours()) || entry.device == parsed("eth0")
            })
            .collect();
        let extra: Vec<_> = own.iter().filter(|entry| !desired.addresses.contains(entry)).collect();
        assert!(extra.is_empty(), "addresses that nobody wants: {extra:?}");
        for entry in &desired.addresses {
            let there = truth.addresses.contains_key(entry);
            let waits = excused(Object::Address(entry.clone())) || excused(Object::Link(entry.device.clone()));
            assert!(there || waits, "{entry:?} is missing");
        }
        self.proves_ways(desired, truth, &excused);
    }

    fn proves_ways(&self, desired: &Desired, truth: &Observed, excused: &dyn Fn(Object) -> bool) {
        let ours = truth.routes.iter().filter(|(_, there)| there.owner.is_ours());
        let extra: Vec<&RouteKey> = ours
            .map(|(key, _)| key)
            .filter(|key| !desired.routes.contains_key(key))
            .collect();
        assert!(extra.is_empty(), "routes that nobody wants: {extra:?}");
        for (key, route) in desired.routes.iter().filter(|(key, _)| !excused(Object::Route(**key))) {
            let has = truth.routes.get(key).unwrap_or_else(|| panic!("{key:?} is missing"));
            assert_eq!(
                (has.value.kind, has.value.mtu, has.value.source),
                (route.kind, route.mtu, route.source)
            );
            let wanted: BTreeSet<_> = route.nexthops.iter().map(|hop| (hop.via, hop.weight)).collect();
            let there: BTreeSet<_> = has.value.nexthops.iter().map(|hop| (hop.via, hop.weight)).collect();
            assert_eq!(wanted, there, "{key:?}");
        }
        for (rule, count) in &truth.rules {
            assert_eq!(count.ours, usize::from(desired.rules.contains(rule)), "{rule:?}");
        }
        for rule in desired
            .rules
            .iter()
            .filter(|rule| !excused(Object::Rule((*rule).clone())))
        {
            assert!(truth.rules.contains_key(rule), "{rule:?} is missing");
        }
        if truth.capabilities.nftables {
            let foreign = |name: &InterfaceName| truth.links.get(name).is_some_and(|link| !link.owner.is_ours());
            let mut wanted = desired.firewall.clone();
            wanted.clamp_mss.retain(|name| !foreign(name));
            wanted.default_route.retain(|name, _| !foreign(name));
            assert_eq!(truth.firewall, wanted);
            assert!(!truth.firewall_foreign_edit);
        }
    }

    /// Settings are as the document says; those that it does not name are as they were found.
    fn proves_settings(&self, desired: &Desired) {
        let value = |setting: &Sysctl| self.world.state.sysctls.get(setting).map_or("0", String::as_str);
        let there = |setting: &Sysctl| {
            setting
                .device()
                .is_none_or(|device| self.world.state.links.contains_key(&device))
        };
        let foreign = |setting: &Sysctl| {
            let link = setting.device().and_then(|device| self.world.state.links.get(&device));
            let tunnel = setting
                .device()
                .is_some_and(|device| desired.wireguard.contains_key(&device));
            tunnel && link.is_some_and(|link| !link.owner.is_ours())
        };
        for (setting, wanted) in desired
            .sysctls
            .iter()
            .filter(|(setting, _)| there(setting) && !foreign(setting))
        {
            assert_eq!(value(setting), wanted, "{setting}");
        }
        let left = self
            .witness
            .settings()
            .iter()
            .filter(|(setting, _)| !desired.sysctls.contains_key(*setting));
        let own = |setting: &Sysctl| {
            let link = setting.device().and_then(|device| self.world.state.links.get(&device));
            link.is_some_and(|link| link.owner.is_ours())
        };
        for (setting, found) in left.filter(|(setting, _)| there(setting) && !own(setting)) {
            assert!(
                found.contains(value(setting)),
                "{setting} is {}, and was {found:?}",
                value(setting)
            );
        }
    }

    /// While it was quiet there was little to read.
    pub(super) fn proves_quiet(&self) {
        let (time, readings) = self.witness.quiet_readings(self.time);
        let live = self.disk.live.as_ref().map(|live| &*live.desired);
        let interval = live.and_then(|live| live.settings.reconcile_interval);
        let minutes = usize::try_from(time.as_secs() / 60).unwrap() + 1;
        let periodic = interval.map_or(0, |interval| minutes * 60 / interval as usize + 1);
        // A silent peer with a name is asked after every half minute at most, and its new address is set.
        assert!(
            readings <= periodic + 100 + 5 * minutes,
            "{readings} readings in {time:?}, and nothing to do"
        );
    }
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.operations.iter().map(|operation| operation.attempt()).collect()
}
