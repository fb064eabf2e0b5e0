//! `tunneld status`: the box in one screen.

use clap::Args;

use super::{
    Daemon, print, print_json,
    style::Style,
    table,
    text::{self, ago, author, bytes, findings, now, plain},
};
use crate::model::{
    service::{Failure, FailureKind},
    status::{PeerStatus, State, Status, Tunnel, TunnelState},
};

/// Show tunnels, peers, what is waiting and why
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld status\n  tunneld status wg0\n  tunneld status --json | jq '.tunnels[] | {name, state}'"
)]
pub(super) struct Arguments {
    /// Only this tunnel
    tunnel: Option<String>,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let mut status = daemon.ask(async |client| client.status().await)?;
    if let Some(wanted) = &arguments.tunnel {
        status.tunnels.retain(|tunnel| tunnel.name.as_str() == wanted);
        if status.tunnels.is_empty() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("no tunnel {wanted}; see tunneld status"),
            ));
        }
    }
    if arguments.json {
        print_json(&status)
    } else {
        print(&render(&status, now(), Style::stdout()))
    }
}

/// The status for people.
pub(super) fn render(status: &Status, now: u64, style: Style) -> String {
    let mut out = headline(status, now, style);
    for tunnel in &status.tunnels {
        out.push_str(&render_tunnel(tunnel, now, style));
    }
    let probes = status.trial.as_ref().map(|trial| trial.probes.as_slice());
    findings(&mut out, &style.warn("probes"), probes.unwrap_or_default());
    findings(&mut out, &style.warn("waiting"), &status.waiting);
    findings(&mut out, &style.bad("in the way"), &status.conflicts);
    if !status.store.trouble.is_empty() {
        out.push_str(&format!("{}: {}\n", style.bad("store"), status.store.trouble));
    }
    let repairs: u64 = status.repairs.values().sum();
    if repairs > 0 {
        let kinds: Vec<_> = status
            .repairs
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        out.push_str(&format!(
            "repairs: {} ({}); see tunneld history\n",
            repairs,
            kinds.join(", ")
        ));
    }
    out
}

fn headline(status: &Status, now: u64, style: Style) -> String {
    let name = plain(status.name.as_deref().unwrap_or("tunneld"));
    let state = match &status.state {
        State::Empty => style.dim("no document yet; next: tunneld apply FILE"),
        State::Starting => style.warn("starting"),
        State::InSync => in_sync(status, style),
        State::Applying => style.warn("applying"),
        State::Drifted(reason) => style.bad(&format!("drifted: {reason}")),
        State::Blind(reason) => style.bad(&format!("cannot read the kernel: {reason}")),
        State::SafeMode(reason) => style.bad(&format!(
            "safe mode, nothing is changed: {reason}; next: tunneld apply FILE, tunneld rollback, or restart tunneld"
        )),
    };
    let revision = status.revision.as_ref().map_or_else(String::new, |revision| {
        let comment = if revision.comment.is_empty() {
            String::new()
        } else {
            format!(" \"{}\"", plain(&revision.comment))
        };
        format!(
            "revision {} by {}, {}{comment}, ",
            revision.number,
            author(&revision.author),
            ago(revision.time, now)
        )
    });
    let trial = status.trial.as_ref().map(|trial| text::trial(trial, style));
    format!(
        "{}: {revision}{state}{}\n",
        style.bold(&name),
        trial.unwrap_or_default()
    )
}

/// Equal to the document but for what cannot be programmed, and how much that is.
fn in_sync(status: &Status, style: Style) -> String {
    let counted = [
        (status.waiting.len(), "waiting"),
        (status.conflicts.len(), "in the way"),
    ];
    let rest: Vec<String> = counted
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match rest.as_slice() {
        [] => style.good("in sync"),
        rest => style.warn(&format!("in sync but for {}", rest.join(", "))),
    }
}

fn render_tunnel(tunnel: &Tunnel, now: u64, style: Style) -> String {
    let mut facts = vec![paint(&tunnel.state, style)];
    if let Some(backend) = tunnel.backend {
        let version = tunnel
            .engine
            .as_ref()
            .map(|version| format!(" {version}"))
            .unwrap_or_default();
        facts.push(format!("{backend}{version}"));
    }
    facts.extend(tunnel.addresses.iter().cloned());
    if tunnel.listen_port != 0 {
        facts.push(format!("port {}", tunnel.listen_port));
    }
    facts.extend(tunnel.mtu.map(|mtu| format!("mtu {mtu}")));
    if tunnel.fwmark.is_set() {
        facts.push(format!("fwmark {}", tunnel.fwmark));
    }
    let plural = if tunnel.routes == 1 { "route" } else { "routes" };
    facts.push(format!("{} {plural}", tunnel.routes));
    if tunnel.repairs > 0 {
        facts.push(style.warn(&format!("{} repairs", tunnel.repairs)));
    }
    let rows: Vec<Vec<String>> = tunnel.peers.iter().map(|peer| peer_row(peer, now, style)).collect();
    format!(
        "\n{}  {}\n{}",
        style.bold(tunnel.name.as_str()),
        facts.join("  "),
        table::align(&rows)
    )
}

fn peer_row(peer: &PeerStatus, now: u64, style: Style) -> Vec<String> {
    let key = peer.public_key.to_string();
    let name = peer
        .name
        .as_deref()
        .map(plain)
        .unwrap_or_else(|| key.chars().take(12).chain(['…']).collect());
    let endpoint = peer
        .current_endpoint
        .map(|endpoint| endpoint.to_string())
        .or_else(|| peer.endpoint.clone());
    let handshake = peer
        .last_handshake
        .map_or_else(String::new, |then| format!("handshake {}", ago(then, now)));
    vec![
        format!("  {name}"),
        paint(&peer.state, style),
        endpoint.unwrap_or_else(|| style.dim("no endpoint")),
        handshake,
        format!(
            "{} received, {} sent",
            bytes(peer.received_bytes),
            bytes(peer.sent_bytes)
        ),
    ]
}

fn paint(state: &TunnelState, style: Style) -> String {
    match state {
        TunnelState::Up => style.good("up"),
        TunnelState::Waiting(reason) => style.warn(&format!("waiting: {reason}")),
        TunnelState::Failed(reason) => style.bad(&format!("failed: {reason}")),
        TunnelState::NoHandshake(reason)
        | TunnelState::EndpointUnresolved(reason)
        | TunnelState::NoRouteToEndpoint(reason) => style.bad(reason),
    }
}
