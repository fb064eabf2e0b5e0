//! Addresses, rules, kernel settings and the firewall.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    super::{
        desired::{Address, Desired, Firewall, Sysctl},
        observed::{Observed, ObservedAddress},
        ports::Operation,
        preference::connected_metric,
        types::InterfaceName,
    },
    Inputs, Object,
    links::Links,
    step::{Draft, Step},
};

/// The addresses of ours that go, on links that stay.
pub(super) fn leaving<'a>(
    desired: &Desired,
    observed: &'a Observed,
    inputs: &Inputs<'_>,
    links: &Links,
) -> BTreeSet<&'a Address> {
    observed
        .addresses
        .iter()
        .filter(|(entry, has)| is_ours(entry, has, observed, inputs))
        .filter(|(entry, _)| !desired.addresses.contains(*entry) && !links.goes(&entry.device))
        .map(|(entry, _)| entry)
        .collect()
}

/// The kernel says whose an address is from 5.18 on; before that only the ledger knows.
fn is_ours(entry: &Address, has: &ObservedAddress, observed: &Observed, inputs: &Inputs<'_>) -> bool {
    let recorded = || inputs.ledger.addresses.contains(&(entry.device.clone(), entry.address));
    has.owner.is_ours() || (!observed.capabilities.address_protocol && recorded())
}

/// Links that stay and lose their last IPv4 address. The kernel switches IPv4 off on such a link and drops
/// all its IPv4 routes (`fib_disable_ip()`), so these addresses go early, behind guards.
pub(super) fn stripped(
    desired: &Desired,
    observed: &Observed,
    links: &Links,
    leaving: &BTreeSet<&Address>,
) -> BTreeSet<InterfaceName> {
    let ipv4 = |entry: &Address| !entry.address.address().is_ipv6();
    leaving
        .iter()
        .filter(|entry| ipv4(entry))
        .map(|entry| &entry.device)
        .filter(|device| {
            let here = |entry: &&Address| entry.device == **device && ipv4(entry);
            let stays = observed
                .addresses
                .keys()
                .filter(here)
                .any(|entry| !leaving.contains(entry));
            let comes = links.stays(device) && desired.addresses.iter().any(|entry| here(&entry));
            !stays && !comes
        })
        .cloned()
        .collect()
}

/// The addresses that have to go before others come: those of stripped links, and IPv6 addresses that get
/// another length, because IPv6 has no address twice on a link (`ipv6_add_addr()`).
pub(super) fn early<'a>(
    desired: &Desired,
    links: &Links,
    leaving: &BTreeSet<&'a Address>,
    stripped: &BTreeSet<InterfaceName>,
) -> BTreeSet<&'a Address> {
    let comes_again = |entry: &Address| {
        let ip = entry.address.address();
        let same = |other: &Address| other.device == entry.device && other.address.address() == ip;
        links.stays(&entry.device) && desired.addresses.iter().any(same)
    };
    let early = |entry: &Address| match entry.address.address() {
        IpAddr::V4(_) => stripped.contains(&entry.device),
        IpAddr::V6(_) => comes_again(entry),
    };
    leaving.iter().copied().filter(|entry| early(entry)).collect()
}

/// Plans addresses.
pub(super) fn addresses(
    desired: &Desired,
    observed: &Observed,
    inputs: &Inputs<'_>,
    links: &Links,
    (leaving, early): (&BTreeSet<&Address>, &BTreeSet<&Address>),
    draft: &mut Draft,
) {
    for address in &desired.addresses {
        let object = || Object::Address(address.clone());
        if !links.stays(&address.device) {
            if observed.addresses.contains_key(address) && !links.goes(&address.device) {
                continue;
            }
            draft.wait(object(), missing_link(&address.device, observed));
            continue;
        }
        let without = links.lacks_ipv6(&address.device, observed);
        if let Some(reason) = without.filter(|_| address.address.address().is_ipv6()) {
            draft.wait(object(), reason);
            continue;
        }
        let there = observed.addresses.get(address).filter(|_| !links.goes(&address.device));
        // A foreign twin does the same; a metric of ours that is wrong is put right in place.
        let right = there.is_some_and(|has| {
            !is_ours(address, has, observed, inputs) || has.metric == connected_metric(address.address.address())
        });
        if !right {
            let address = address.clone();
            draft.add(Step::Address, Operation::AddAddress { address });
        }
    }
    let mut promoting = BTreeSet::new();
    for address in leaving.iter().copied().cloned() {
        let early = early.contains(&address);
        let step = if early { Step::MakeRoom } else { Step::Unaddress };
        if has_secondaries(&address, desired, observed) && promoting.insert(address.device.clone()) {
            promote(&address.device, step, observed, draft);
        }
        draft.add(step, Operation::DeleteAddress { address });
    }
}

/// Whether there is another IPv4 address of the same network, which may be secondary to this one: the kernel
/// would delete it together with the first (`__inet_del_ifa()`) if it were not told to promote it.
fn has_secondaries(gone: &Address, desired: &Desired, observed: &Observed) -> bool {
    let others = desired.addresses.iter().chain(observed.addresses.keys());
    let secondary = |entry: &Address| {
        entry.device == gone.device && entry.address.prefix() == gone.address.prefix() && entry != gone
    };
    !gone.address.address().is_ipv6() && { others }.any(secondary)
}

/// Has the kernel promote secondary addresses of a link; on a foreign one only until the end of the plan.
fn promote(device: &InterfaceName, step: Step, observed: &Observed, draft: &mut Draft) {
    let sysctl = Sysctl::promote_secondaries(device);
    let has = observed.sysctls.get(&sysctl).cloned();
    if has.as_deref() == Some("1") {
        return;
    }
    let set = |value| Operation::SetSysctl {
        sysctl: sysctl.clone(),
        value,
    };
    draft.add(step, set("1".into()));
    if let Some(has) = has {
        draft.add(Step::Release, set(has));
    }
}

fn missing_link(name: &InterfaceName, observed: &Observed) -> String {
    match observed.links.contains_key(name) {
        true => format!("link {name} is not ours"),
        false => observed.missing_link(name),
    }
}

/// Plans rules: new ones in the order in which they are asked, then old ones in the reverse order.
///
/// The protocol takes part in what makes two rules equal (`rule_exists()` in `net/core/fib_rules.c`): a
/// foreign twin neither stands in the way nor does it count, because it can go at any time.
pub(super) fn rules(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    let ours = |rule| observed.rules.get(rule).map_or(0, |count| count.ours);
    let mut new = Vec::new();
    for rule in &desired.rules {
        let no_ipv6 = rule.family == super::super::document::Family::Ipv6 && !observed.capabilities.ipv6;
        // Of a link that comes later the kernel takes the name; another name of one it never compares.
        let mut links = [&rule.iif, &rule.oif].into_iter().flatten();
        if ours(rule) > 0 {
            continue;
        } else if no_ipv6 {
            draft.wait(Object::Rule(rule.clone()), "the kernel has no IPv6");
        } else if let Some(name) = links.find(|name| observed.other_name(name).is_some()) {
            draft.wait(Object::Rule(rule.clone()), observed.missing_link(name));
        } else {
            new.push(rule);
        }
    }
    new.sort_by_key(|rule| rule.priority);
    for rule in new {
        draft.add(Step::Rule, Operation::AddRule { rule: rule.clone() });
    }
    let mut old: Vec<_> = observed.rules.iter().collect();
    old.sort_by_key(|(rule, _)| std::cmp::Reverse(rule.priority));
    for (rule, count) in old {
        let keep = usize::from(desired.rules.contains(rule));
        for _ in keep..count.ours {
            draft.add(Step::Unrule, Operation::DeleteRule { rule: rule.clone() });
        }
    }
}

/// Plans kernel settings: what the document names, and what it no longer names but we changed.
pub(super) fn sysctls(desired: &Desired, observed: &Observed, inputs: &Inputs<'_>, links: &Links, draft: &mut Draft) {
    let set = |sysctl: &Sysctl, value: &String| Operation::SetSysctl {
        sysctl: sysctl.clone(),
        value: value.clone(),
    };
    for (sysctl, value) in &desired.sysctls {
        let device = sysctl.device();
        let new = device.as_ref().is_some_and(|device| links.is_new(device));
        let not_ours = device
            .as_ref()
            .filter(|device| desired.wireguard.contains_key(*device) && !links.stays(device));
        match observed.sysctls.get(sysctl) {
            _ if new => draft.add(Step::Prepare, set(sysctl, value)),
            Some(_) if not_ours.is_some() => {
                let reason = not_ours.map(|device| missing_link(device, observed));
                draft.wait(Object::Sysctl(sysctl.clone()), reason.unwrap_or_default());
            }
            Some(has) if has == value => {}
            Some(_) => draft.add(step(sysctl, value), set(sysctl, value)),
            None => {
                let reason = match device {
                    Some(device) if !observed.links.contains_key(&device) => observed.missing_link(&device),
                    _ => "the kernel has no such setting".into(),
                };
                draft.wait(Object::Sysctl(sysctl.clone()), reason);
            }
        }
    }
    for (sysctl, saved) in &inputs.ledger.sysctls {
        let goes = sysctl.device().is_some_and(|device| links.goes(&device));
        let differs = observed.sysctls.get(sysctl).is_some_and(|has| has != saved);
        if differs && !goes && !desired.sysctls.contains_key(sysctl) {
            draft.add(Step::Release, set(sysctl, saved));
        }
    }
}

/// Forwarding begins when every route and rule is there; everything else is there before them.
fn step(sysctl: &Sysctl, value: &str) -> Step {
    let forwards = [Sysctl::ipv4_forward(), Sysctl::ipv6_forward()].contains(sysctl) && value != "0";
    if forwards { Step::Release } else { Step::Protect }
}

/// Plans our nftables table: what it keeps out more it keeps out early, what it keeps out less late.
/// A foreign link that has a tunnel's name is none of its business.
pub(super) fn firewall(desired: &Desired, observed: &Observed, links: &Links, draft: &mut Draft) {
    let wanted = &mut desired.firewall.clone();
    for name in links.foreign(observed) {
        wanted.clamp_mss.remove(name);
        wanted.default_route.remove(name);
    }
    let wanted = &*wanted;
    if *wanted == observed.firewall && !observed.firewall_foreign_edit {
        return;
    }
    if !observed.capabilities.nftables {
        if *wanted != Firewall::default() {
            draft.wait(Object::Firewall, "the kernel has no nftables (module nf_tables)");
        }
        return;
    }
    let less = covers(&observed.firewall, wanted) && !observed.firewall_foreign_edit;
    let step = if less { Step::Unshield } else { Step::Shield };
    let firewall = wanted.clone();
    draft.add(step, Operation::SetFirewall { firewall });
}

/// Whether everything `less` has is in `more`.
fn covers(more: &Firewall, less: &Firewall) -> bool {
    let guarded = |name: &InterfaceName, guard| more.default_route.get(name) == Some(guard);
    less.clamp_mss.is_subset(&more.clamp_mss) && less.default_route.iter().all(|(name, guard)| guarded(name, guard))
}
