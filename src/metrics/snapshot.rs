//! The values that are read from the status when the page is scraped.

use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::model::{
    document::Family,
    reconcile::subject::KINDS,
    status::{State, Status, Tunnel, TunnelState},
};

/// A status that is being scraped.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// Whether peers are labelled with their allowed IPs.
    pub(super) allowed_ips: bool,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut out = Output(&mut encoder);
        self.appliance(&mut out)?;
        self.tunnels(&mut out)?;
        self.peers(&mut out)
    }
}

impl Snapshot {
    fn appliance(&self, out: &mut Output<'_, '_>) -> std::fmt::Result {
        let status = &self.status;
        let name = status.name.clone().unwrap_or_default();
        let build = [("version", status.version.clone()), ("name", name)];
        out.gauges(
            "tunneld_build_info",
            "Version of the daemon and name of the appliance",
            [(build.to_vec(), 1.0)],
        )?;
        out.gauge(
            "process_start_time_seconds",
            "When the daemon started, since 1970",
            status.started as f64,
        )?;
        let in_sync = f64::from(u8::from(status.state == State::InSync));
        out.gauge(
            "tunneld_in_sync",
            "Whether the kernel equals the revision in force, but for what is waiting",
            in_sync,
        )?;
        let safe_mode = f64::from(u8::from(matches!(status.state, State::SafeMode(_))));
        out.gauge(
            "tunneld_safe_mode",
            "Whether nothing is changed until somebody applies a document",
            safe_mode,
        )?;
        out.gauge(
            "tunneld_failed_starts",
            "How often in a row the daemon had ended soon after its start before this one",
            f64::from(status.failed_starts),
        )?;
        let revision = status.revision.as_ref();
        out.gauge(
            "tunneld_revision",
            "Number of the revision in force",
            revision.map_or(0, |r| r.number) as f64,
        )?;
        let applied = revision.map_or(0, |r| r.time) as f64;
        out.gauge(
            "tunneld_revision_timestamp_seconds",
            "When the revision in force was applied, since 1970",
            applied,
        )?;
        out.gauge(
            "tunneld_waiting_objects",
            "Objects that wait for something that is not there",
            status.waiting.len() as f64,
        )?;
        out.gauge(
            "tunneld_conflicting_objects",
            "Objects that a foreign one keeps out",
            status.conflicts.len() as f64,
        )?;
        out.gauge(
            "tunneld_store_size_bytes",
            "Size of the store on disk",
            status.store.bytes as f64,
        )?;
        out.gauge(
            "tunneld_store_flush_seconds",
            "How long the last flush of the store took",
            status.store.flush_seconds,
        )?;
        self.counts(out)
    }

    /// Routes, repairs, and what was dropped.
    fn counts(&self, out: &mut Output<'_, '_>) -> std::fmt::Result {
        let status = &self.status;
        let routes = status.routes.iter().map(|count| {
            let family = if count.family == Family::Ipv4 { "ipv4" } else { "ipv6" };
            let labels = [
                ("family", family.to_owned()),
                ("table", count.table.to_string()),
                ("class", count.class.clone()),
            ];
            (labels.to_vec(), count.count as f64)
        });
        out.gauges("tunneld_routes", "Routes of ours in the kernel", routes)?;
        // A rate needs the zero that comes before the first one.
        let mut repairs: BTreeMap<&str, u64> = KINDS.into_iter().map(|kind| (kind, 0)).collect();
        repairs.extend(status.repairs.iter().map(|(kind, count)| (kind.as_str(), *count)));
        let repairs = repairs
            .into_iter()
            .map(|(kind, count)| (vec![("kind", kind.to_owned())], count));
        out.counters("tunneld_repairs", "Repairs of what something else had changed", repairs)?;
        let dropped = status
            .dropped
            .iter()
            .map(|(queue, count)| (vec![("queue", queue.clone())], *count));
        out.counters("tunneld_dropped", "What bounded queues dropped", dropped)
    }

    fn tunnels(&self, out: &mut Output<'_, '_>) -> std::fmt::Result {
        let tunnels = || self.status.tunnels.iter();
        let states = tunnels().flat_map(|tunnel| {
            TunnelState::WORDS.iter().map(move |word| {
                let labels = vec![("interface", tunnel.name.to_string()), ("state", (*word).to_owned())];
                (labels, f64::from(u8::from(tunnel.state.word() == *word)))
            })
        });
        out.gauges("tunneld_tunnel_state", "1 for the state a tunnel is in", states)?;
        let info = tunnels().map(|tunnel| (tunnel_info(tunnel), 1.0));
        out.gauges("tunneld_tunnel_info", "Who carries a tunnel", info)?;
        let mtu = tunnels().filter_map(|tunnel| Some((interface(tunnel), f64::from(tunnel.mtu?))));
        out.gauges("tunneld_tunnel_mtu_bytes", "MTU of a tunnel", mtu)?;
        let routes = tunnels().map(|tunnel| (interface(tunnel), tunnel.routes as f64));
        out.gauges("tunneld_tunnel_routes", "Routes of ours over a tunnel", routes)?;
        let repairs = tunnels().map(|tunnel| (interface(tunnel), tunnel.repairs));
        out.counters("tunneld_tunnel_repairs", "Repairs of a tunnel", repairs)
    }

    fn peers(&self, out: &mut Output<'_, '_>) -> std::fmt::Result {
        let peers: Vec<_> = self
            .status
            .tunnels
            .iter()
            .flat_map(|tunnel| tunnel.peers.iter().map(move |p| (tunnel, p)))
            .collect();
        // One set of labels per peer, however many metrics use it.
        let labels: Vec<Labels> = peers
            .iter()
            .map(|(tunnel, peer)| {
                let mut labels = vec![
                    ("interface", tunnel.name.to_string()),
                    ("public_key", peer.public_key.to_string()),
                ];
                labels.push(("friendly_name", peer.name.clone().unwrap_or_default()));
                if self.allowed_ips {
                    labels.push(("allowed_ips", peer.allowed_ips.join(",")));
                }
                labels
            })
            .collect();
        let each = || peers.iter().map(|(_, peer)| *peer).zip(labels.iter().cloned());
        let sent = each().map(|(peer, labels)| (labels, peer.sent_bytes));
        out.counters("wireguard_sent_bytes", "Bytes sent to a peer", sent)?;
        let received = each().map(|(peer, labels)| (labels, peer.received_bytes));
        out.counters("wireguard_received_bytes", "Bytes received from a peer", received)?;
        let handshake = each().map(|(peer, labels)| (labels, peer.last_handshake.unwrap_or(0) as f64));
        out.gauges(
            "wireguard_latest_handshake_seconds",
            "When the last handshake completed, since 1970; 0 is never",
            handshake,
        )?;
        let age =
            each().filter_map(|(peer, labels)| Some((labels, self.now.saturating_sub(peer.last_handshake?) as f64)));
        out.gauges(
            "tunneld_peer_handshake_age_seconds",
            "Time since the last handshake",
            age,
        )?;
        let up = each().map(|(peer, labels)| (labels, f64::from(u8::from(peer.state == TunnelState::Up))));
        out.gauges("tunneld_peer_up", "Whether a peer's last handshake is recent", up)
    }
}

type Labels = Vec<(&'static str, String)>;

fn interface(tunnel: &Tunnel) -> Labels {
    vec![("interface", tunnel.name.to_string())]
}

fn tunnel_info(tunnel: &Tunnel) -> Labels {
    let mut labels = interface(tunnel);
    labels.push((
        "backend",
        tunnel.backend.map(|backend| backend.to_string()).unwrap_or_default(),
    ));
    labels.push(("engine", tunnel.engine.clone().unwrap_or_default()));
    labels
}

/// Writes families of values that were read, not counted, here.
struct Output<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Output<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> std::fmt::Result {
        self.gauges(name, help, [(Labels::new(), value)])
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) -> std::fmt::Result {
        self.family(
            name,
            help,
            values
                .into_iter()
                .map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> std::fmt::Result {
        self.family(
            name,
            help,
            values
                .into_iter()
                .map(|(labels, value)| (labels, ConstCounter::new(value))),
        )
    }

    /// A family without a member is left out: a HELP without samples helps nobody.
    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, M)>,
    ) -> std::fmt::Result {
        let mut values = values.peekable();
        let Some(kind) = values.peek().map(|(_, metric)| metric.metric_type()) else {
            return Ok(());
        };
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in values {
            if labels.is_empty() {
                metric.encode(family)?;
                break;
            }
            metric.encode(family.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }
}
