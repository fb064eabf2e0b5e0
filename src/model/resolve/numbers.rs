//! Marks and tables for default routes and uplinks, away from all numbers that the document names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::super::{
    document::{Document, TableChoice, WireGuard},
    problem::{Path, Problem},
    types::{Fwmark, InterfaceName, TableId},
};

/// The first number that is tried, `wg-quick(8)`'s.
const FIRST: u32 = 51_820;

/// The kernel's own tables.
const SPECIAL: [TableId; 3] = [TableId::DEFAULT, TableId::MAIN, TableId::LOCAL];

/// The choice for all tunnels, by their place in the document.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) tunnels: Vec<Assigned>,
    /// Tables of the uplinks by the mark that leads there.
    pub(super) uplinks: BTreeMap<Fwmark, Uplink>,
}

/// The choice for one tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) fwmark: Fwmark,
    /// Table of its default route, where that is handled as `wg-quick(8)` does.
    pub(super) default_table: Option<TableId>,
}

/// A way out for encrypted packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) device: InterfaceName,
    pub(super) gateway: Option<IpAddr>,
    pub(super) table: TableId,
}

impl Numbers {
    pub(super) fn assign(document: &Document, problems: &mut Vec<Problem>) -> Self {
        let mut chooser = Chooser::new(document);
        let mut numbers = Self::default();
        for (index, tunnel) in document.wireguard.iter().enumerate() {
            let path = Path::new("wireguard").index(index);
            let default = has_default(tunnel);
            let fwmark = match tunnel.fwmark {
                Some(mark) if mark.is_set() => mark,
                Some(mark) => {
                    if default || tunnel.uplink.is_some() {
                        let reason = "a default route or an uplink needs a mark to tell encrypted packets by";
                        problems.push(Problem::new(path.clone().key("fwmark"), reason, "leave fwmark out"));
                    }
                    mark
                }
                None if tunnel.uplink.is_some() => Fwmark::new(chooser.next()),
                None if default => chooser.shared(),
                None => Fwmark::NONE,
            };
            numbers.tunnels.push(Assigned {
                fwmark,
                default_table: default.then(|| chooser.default_table(fwmark)),
            });
            if let Some(device) = &tunnel.uplink {
                let known = numbers.uplinks.entry(fwmark).or_insert_with(|| Uplink {
                    device: device.clone(),
                    gateway: tunnel.uplink_gateway,
                    table: TableId::new(chooser.next()),
                });
                if known.device != *device || known.gateway != tunnel.uplink_gateway {
                    let reason = "a tunnel with another uplink has the same fwmark";
                    let fix = "write another fwmark, or leave it out";
                    problems.push(Problem::new(path.key("fwmark"), reason, fix));
                }
            }
        }
        numbers.refuse_bystanders(document, problems);
        numbers
    }

    /// A tunnel without an uplink must not share the mark of one with: its packets would take that uplink.
    fn refuse_bystanders(&self, document: &Document, problems: &mut Vec<Problem>) {
        for (index, tunnel) in document.wireguard.iter().enumerate() {
            let mark = tunnel.fwmark.filter(|mark| self.uplinks.contains_key(mark));
            if tunnel.uplink.is_none() && mark.is_some() {
                let reason = "a tunnel with an uplink has the same fwmark, so these packets would leave there too";
                let path = Path::new("wireguard").index(index).key("fwmark");
                problems.push(Problem::new(
                    path,
                    reason,
                    "write another fwmark, or set the same uplink",
                ));
            }
        }
    }

    /// The choice for the tunnel at this place in the document.
    pub(super) fn of(&self, index: usize) -> Assigned {
        self.tunnels.get(index).copied().unwrap_or_default()
    }
}

/// Whether this tunnel's default route is handled as `wg-quick(8)` does.
fn has_default(tunnel: &WireGuard) -> bool {
    let routed = tunnel.peers.iter().filter(|peer| peer.routes != Some(false));
    tunnel.table == TableChoice::Auto
        && routed
            .flat_map(|peer| &peer.allowed_ips)
            .any(super::super::types::Prefix::is_default)
}

struct Chooser {
    /// Numbers that are somebody's mark or table.
    taken: BTreeSet<u32>,
    /// Tables that the document names.
    tables: BTreeSet<TableId>,
    next: u32,
    /// The mark of all default routes without a mark and an uplink of their own: as one mark, encrypted
    /// packets of one tunnel never take another's default route.
    shared: Option<Fwmark>,
    default_tables: BTreeMap<Fwmark, TableId>,
}

impl Chooser {
    fn new(document: &Document) -> Self {
        let tunnels = document.wireguard.iter().filter_map(|tunnel| match tunnel.table {
            TableChoice::Table(table) => Some(table),
            TableChoice::Auto | TableChoice::Off => None,
        });
        let routes = document.route.iter().filter_map(|route| route.table);
        let rules = document.rule.iter().filter_map(|rule| rule.table);
        let tables: BTreeSet<_> = tunnels.chain(routes).chain(rules).chain(SPECIAL).collect();
        let marks = document.wireguard.iter().filter_map(|tunnel| tunnel.fwmark);
        let marks = marks.chain(document.rule.iter().filter_map(|rule| rule.fwmark));
        let taken = tables.iter().map(|table| table.get()).chain(marks.map(Fwmark::get));
        Self {
            taken: taken.collect(),
            tables,
            next: FIRST,
            shared: None,
            default_tables: BTreeMap::new(),
        }
    }

    fn next(&mut self) -> u32 {
        while !self.taken.insert(self.next) {
            self.next += 1;
        }
        self.next
    }

    fn shared(&mut self) -> Fwmark {
        if let Some(mark) = self.shared {
            return mark;
        }
        let mark = Fwmark::new(self.next());
        self.shared = Some(mark);
        mark
    }

    /// The table of the default routes under this mark: the mark's number, if no other use of that is known.
    fn default_table(&mut self, mark: Fwmark) -> TableId {
        if let Some(table) = self.default_tables.get(&mark) {
            return *table;
        }
        let same = TableId::new(mark.get());
        let table = if mark.is_set() && !self.tables.contains(&same) {
            same
        } else {
            TableId::new(self.next())
        };
        self.default_tables.insert(mark, table);
        table
    }
}
