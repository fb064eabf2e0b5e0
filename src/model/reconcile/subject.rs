//! Which links an operation needs, and what was found in its place: for back-off, counters and logs.

use std::fmt::Display;

use crate::model::{desired::Route, observed::Observed, ports::Operation, types::InterfaceName};

/// Every [`kind`] that there is.
pub const KINDS: [&str; 14] = [
    "create-link",
    "delete-link",
    "set-mtu",
    "set-up",
    "configure-wireguard",
    "add-address",
    "delete-address",
    "add-route",
    "replace-route",
    "delete-route",
    "add-rule",
    "delete-rule",
    "set-sysctl",
    "set-firewall",
];

/// The kind of an operation, as it serialises: a bounded label for metrics.
pub fn kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::CreateLink { .. } => "create-link",
        Operation::DeleteLink { .. } => "delete-link",
        Operation::SetMtu { .. } => "set-mtu",
        Operation::SetUp { .. } => "set-up",
        Operation::ConfigureWireguard { .. } => "configure-wireguard",
        Operation::AddAddress { .. } => "add-address",
        Operation::DeleteAddress { .. } => "delete-address",
        Operation::AddRoute { .. } => "add-route",
        Operation::ReplaceRoute { .. } => "replace-route",
        Operation::DeleteRoute { .. } => "delete-route",
        Operation::AddRule { .. } => "add-rule",
        Operation::DeleteRule { .. } => "delete-rule",
        Operation::SetSysctl { .. } => "set-sysctl",
        Operation::SetFirewall { .. } => "set-firewall",
    }
}

/// The links that have to be there for `operation`: when one of them is held back, so is this.
pub(super) fn devices(operation: &Operation) -> Vec<InterfaceName> {
    let of_route = |route: &Route| route.nexthops.iter().filter_map(|hop| hop.device.clone()).collect();
    match operation {
        Operation::CreateLink { name, .. }
        | Operation::DeleteLink { name, .. }
        | Operation::SetMtu { name, .. }
        | Operation::SetUp { name }
        | Operation::ConfigureWireguard { name, .. } => vec![name.clone()],
        Operation::AddAddress { address } | Operation::DeleteAddress { address } => vec![address.device.clone()],
        Operation::AddRoute { route, .. }
        | Operation::ReplaceRoute { route, .. }
        | Operation::DeleteRoute { route, .. } => of_route(route),
        Operation::SetSysctl { sysctl, .. } => sysctl.device().into_iter().collect(),
        Operation::AddRule { .. } | Operation::DeleteRule { .. } | Operation::SetFirewall { .. } => Vec::new(),
    }
}

/// What was there instead of what `operation` makes.
pub(super) fn found(operation: &Operation, observed: &Observed) -> String {
    let value = |known: Option<String>| known.unwrap_or_else(|| "nothing".to_owned());
    match operation {
        Operation::SetMtu { name, .. } => value(observed.links.get(name).map(|link| format!("mtu {}", link.mtu))),
        Operation::SetUp { name } => value(observed.links.get(name).map(|_| "link down".to_owned())),
        Operation::ConfigureWireguard { .. } => "another configuration".to_owned(),
        Operation::ReplaceRoute { key, .. } => value(observed.routes.get(key).map(|route| hops(&route.value))),
        Operation::SetSysctl { sysctl, .. } => value(observed.sysctls.get(sysctl).cloned()),
        Operation::SetFirewall { .. } if observed.firewall_foreign_edit => "a table that somebody edited".to_owned(),
        Operation::SetFirewall { .. } => "another table".to_owned(),
        Operation::DeleteLink { .. }
        | Operation::DeleteAddress { .. }
        | Operation::DeleteRoute { .. }
        | Operation::DeleteRule { .. } => "one of ours that the document does not name".to_owned(),
        Operation::CreateLink { .. }
        | Operation::AddAddress { .. }
        | Operation::AddRoute { .. }
        | Operation::AddRule { .. } => "nothing".to_owned(),
    }
}

fn hops(route: &Route) -> String {
    fn word(name: &str, value: Option<&impl Display>) -> String {
        value.map(|value| format!(" {name} {value}")).unwrap_or_default()
    }
    let hop = |hop: &crate::model::desired::NextHop| word("via", hop.via.as_ref()) + &word("dev", hop.device.as_ref());
    let hops: String = route.nexthops.iter().map(hop).collect();
    format!("a route{hops}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_kinds_is_whole() {
        let arms = include_str!("subject.rs").lines().filter_map(|line| {
            let (_, word) = line.trim().strip_prefix("Operation::")?.split_once("{ .. } => \"")?;
            word.strip_suffix("\",")
        });
        assert_eq!(arms.collect::<Vec<_>>(), KINDS);
    }
}
