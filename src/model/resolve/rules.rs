//! Policy rules: the document's, and those that default routes and uplinks need.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        desired::{Action, DefaultRouteGuard, NextHop, Route, RouteKey, Rule, Sysctl},
        document::{self, Family, RouteKind},
        preference::STATIC_METRIC,
        problem::{Absence, Path, Problem},
        types::{Fwmark, Prefix, TableId},
    },
    DEFAULT_PRIORITY, GUARD_METRIC, Resolver, SPECIFIC_PRIORITY, UPLINK_PRIORITY,
    numbers::Uplink,
};

/// All bits of a mark.
const WHOLE: Fwmark = Fwmark::new(u32::MAX);

impl Resolver<'_> {
    /// A tunnel's default route: what is not its own encrypted packets, and has no better route in the main
    /// table than the default one, goes into the tunnel.
    pub(super) fn default_route(&mut self, index: usize, tunnel: &document::WireGuard) {
        let assigned = self.numbers.of(index);
        if let Some(table) = assigned.default_table {
            let routed = tunnel.peers.iter().filter(|peer| peer.routes != Some(false));
            for prefix in routed
                .flat_map(|peer| &peer.allowed_ips)
                .filter(|prefix| prefix.is_default())
            {
                let family = family_of(prefix);
                let mark = Some((assigned.fwmark, WHOLE));
                let specific = rule(family, SPECIFIC_PRIORITY, None, TableId::MAIN);
                let default = rule(family, DEFAULT_PRIORITY, mark, table);
                self.desired.rules.insert(Rule {
                    suppress_prefixlength: Some(0),
                    ..specific
                });
                self.desired.rules.insert(Rule { not: true, ..default });
            }
        }
        let guarded = assigned.default_table.is_some();
        let addresses = tunnel.addresses.iter().map(|address| address.address());
        if guarded || tunnel.uplink.is_some() {
            // Answers to marked packets come in over the underlay; the mark makes their reverse path right.
            self.sysctl(Sysctl::ipv4_all("src_valid_mark"), 1);
            let guard = DefaultRouteGuard {
                fwmark: assigned.fwmark,
                addresses: addresses.filter(|_| guarded).collect(),
            };
            self.desired.firewall.default_route.insert(tunnel.name.clone(), guard);
        }
    }

    /// Each uplink has a table with a default route over it, and one behind that lets nothing pass.
    pub(super) fn uplinks(&mut self) {
        for (mark, uplink) in std::mem::take(&mut self.numbers.uplinks) {
            for family in [Family::Ipv4, Family::Ipv6] {
                let way = rule(family, UPLINK_PRIORITY, Some((mark, WHOLE)), uplink.table);
                self.desired.rules.insert(way);
                self.uplink_routes(&uplink, family);
            }
        }
    }

    fn uplink_routes(&mut self, uplink: &Uplink, family: Family) {
        let prefix = default_of(family);
        let key = |metric| RouteKey {
            table: uplink.table,
            prefix,
            metric,
        };
        let reachable = uplink
            .gateway
            .is_none_or(|gateway| gateway.is_ipv6() == prefix.is_ipv6());
        if reachable {
            let way = Route {
                kind: RouteKind::Unicast,
                nexthops: vec![NextHop {
                    via: uplink.gateway,
                    device: Some(uplink.device.clone()),
                    weight: 1,
                    onlink: false,
                }],
                mtu: None,
                source: None,
            };
            self.desired.routes.insert(key(STATIC_METRIC), way);
        }
        let guard = Route {
            kind: RouteKind::Unreachable,
            nexthops: Vec::new(),
            mtu: None,
            source: None,
        };
        self.desired.routes.insert(key(GUARD_METRIC), guard);
    }

    pub(super) fn rules(&mut self) {
        let ours: BTreeSet<u32> = self.desired.rules.iter().map(|rule| rule.priority).collect();
        let mut origins = BTreeMap::new();
        for (index, written) in self.document.rule.iter().enumerate() {
            let path = Path::new("rule").index(index);
            let before = self.problems.len();
            if ours.contains(&written.priority) {
                let reason = "a default route or an uplink of this document has a rule at this position";
                let fix = format!("write another priority, such as {}", UPLINK_PRIORITY - 1);
                self.refuse(path.clone().key("priority"), reason, fix);
            }
            let action = self.action(written, &path);
            let fwmark = self.mark(written, &path);
            let families = self.families(written, &path);
            self.check_match(written, &path);
            if self.problems.len() > before {
                continue;
            }
            let Some(action) = action else { continue };
            for family in families {
                let rule = Rule {
                    family,
                    priority: written.priority,
                    not: written.not,
                    from: written.from.filter(|prefix| !prefix.is_default()),
                    to: written.to.filter(|prefix| !prefix.is_default()),
                    iif: written.iif.clone(),
                    oif: written.oif.clone(),
                    fwmark,
                    action,
                    suppress_prefixlength: written.suppress_prefixlength,
                };
                if let Some(other) = origins.insert(rule.clone(), index) {
                    let problem = Problem::new(path.clone(), "{} is the same rule", "remove one of the two");
                    self.problems.push(problem.with(Path::new("rule").index(other)));
                    break;
                }
                self.desired.rules.insert(rule);
            }
        }
    }

    fn action(&mut self, rule: &document::Rule, path: &Path) -> Option<Action> {
        match (rule.table, rule.action) {
            (Some(table), None) => Some(Action::Lookup(table)),
            (None, Some(action)) => {
                if rule.suppress_prefixlength.is_some() {
                    let place = path.clone().key("suppress-prefixlength");
                    self.refuse(place, "only a look-up can be suppressed", "remove it, or write table");
                }
                Some(Action::Verdict(action))
            }
            (Some(_), Some(_)) => {
                let reason = "a rule either looks in a table or acts";
                self.refuse(path.clone().key("action"), reason, "remove table or action");
                None
            }
            (None, None) => {
                let reason = "a rule needs something to do";
                let lookup = Absence::Here(&["table", "action"]);
                self.problems
                    .push(Problem::absence(path.clone(), lookup, reason, "write table or action"));
                None
            }
        }
    }

    fn mark(&mut self, rule: &document::Rule, path: &Path) -> Option<(Fwmark, Fwmark)> {
        let Some(mark) = rule.fwmark else {
            if rule.fwmask.is_some() {
                let place = path.clone().key("fwmask");
                self.problems.push(Problem::absence(
                    place,
                    Absence::Here(&["fwmark"]),
                    "there is no fwmark to mask",
                    "write fwmark too",
                ));
            }
            return None;
        };
        let mask = rule.fwmask.unwrap_or(WHOLE);
        if !mask.is_set() {
            let place = path.clone().key("fwmask");
            self.refuse(
                place,
                "this mask leaves nothing of the mark",
                "write the bits that count",
            );
        } else if mark.get() & !mask.get() != 0 {
            let reason = "the mark has bits outside the mask, so no packet matches";
            self.refuse(
                path.clone().key("fwmark"),
                reason,
                "clear those bits, or write a wider fwmask",
            );
        }
        Some((mark, mask))
    }

    fn families(&mut self, rule: &document::Rule, path: &Path) -> Vec<Family> {
        let from = rule.from.as_ref().map(family_of);
        let to = rule.to.as_ref().map(family_of);
        if let (Some(from), Some(to)) = (from, to) {
            if from != to {
                self.refuse(
                    path.clone().key("to"),
                    "from and to differ in family",
                    "write a rule for each family",
                );
            }
        }
        let implied = from.or(to);
        if rule.family.is_some() && implied.is_some() && rule.family != implied {
            let reason = "from and to are of the other family";
            self.refuse(
                path.clone().key("family"),
                reason,
                "leave family out, it follows from them",
            );
        }
        match implied.or(rule.family) {
            Some(family) => vec![family],
            None => vec![Family::Ipv4, Family::Ipv6],
        }
    }

    fn check_match(&mut self, rule: &document::Rule, path: &Path) {
        let networks = [rule.from, rule.to].into_iter().flatten();
        let selective = networks.filter(|prefix| !prefix.is_default()).count() > 0
            || rule.iif.is_some()
            || rule.oif.is_some()
            || rule.fwmark.is_some();
        if rule.not && !selective {
            let reason = "a rule for packets that do not match everything is for none";
            self.problems.push(Problem::absence(
                path.clone().key("not"),
                Absence::Here(&["from", "to", "iif", "oif", "fwmark"]),
                reason,
                "write what must not match",
            ));
        }
        let ipv4 = rule.family == Some(Family::Ipv4) || rule.from.or(rule.to).is_some_and(|prefix| !prefix.is_ipv6());
        if ipv4 && rule.suppress_prefixlength.is_some_and(|length| length > 32) {
            let place = path.clone().key("suppress-prefixlength");
            self.refuse(place, "no IPv4 prefix is that long", "write 0 to 32");
        }
    }
}

fn rule(family: Family, priority: u32, fwmark: Option<(Fwmark, Fwmark)>, table: TableId) -> Rule {
    Rule {
        fwmark,
        ..Rule::lookup(family, priority, table)
    }
}

/// The family of a network.
pub(in super::super) fn family_of(prefix: &Prefix) -> Family {
    if prefix.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 }
}

fn default_of(family: Family) -> Prefix {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    Prefix::default_for(match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    })
}
