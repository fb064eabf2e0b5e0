//! Prometheus metrics: a pure function of the status at scrape time, plus the few instruments that only
//! the running loop can keep. Names that dashboards already know are kept (`wireguard_*` as in
//! prometheus_wireguard_exporter); the rest starts with `tunneld_`.

use std::fmt::Write as _;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::model::{
    document::Family as AddressFamily,
    status::{State, Status, Tunnel, TunnelState},
};

/// The content type of OpenMetrics 1.0.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older text format, which `promtool check metrics` reads.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the loop counts as it goes; everything else is read from the status.
#[derive(Debug, Clone)]
pub struct Instruments {
    applies: Family<Outcome, Counter>,
    apply_seconds: Histogram,
    overruns: Counter,
    remote_scrapes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Default for Instruments {
    fn default() -> Self {
        let applies = Family::default();
        for outcome in ["applied", "refused", "not-restored", "store"] {
            drop(applies.get_or_create(&Outcome { outcome }));
        }
        Self {
            applies,
            // 1 ms to 65 s: one route on a fast box up to a full table on a slow one.
            apply_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            overruns: Counter::default(),
            remote_scrapes: Counter::default(),
        }
    }
}

impl Instruments {
    /// Counts an apply that ended as `outcome` (`applied`, `refused`, `not-restored`, `store`) after `seconds`.
    pub fn applied(&self, outcome: &'static str, seconds: f64) {
        self.applies.get_or_create(&Outcome { outcome }).inc();
        self.apply_seconds.observe(seconds);
    }

    /// Counts a netlink overrun that led to a resynchronisation.
    pub fn overrun(&self) {
        self.overruns.inc();
    }

    /// Counts a reading of the metrics by another machine.
    pub fn scraped_from_afar(&self) {
        self.remote_scrapes.inc();
    }

    /// How often another machine has read the metrics.
    pub fn remote_scrapes(&self) -> u64 {
        self.remote_scrapes.get()
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("tunneld_applies", "Applies by how they ended", self.applies.clone());
        let seconds = self.apply_seconds.clone();
        registry.register("tunneld_apply_duration_seconds", "How long applies took", seconds);
        let overruns = self.overruns.clone();
        registry.register(
            "tunneld_netlink_overruns",
            "Lost netlink notifications, each answered by a full reading",
            overruns,
        );
        registry.register(
            "tunneld_remote_scrapes",
            "Readings of these metrics by other machines",
            self.remote_scrapes.clone(),
        );
    }
}

/// Whether a scraper that sends this `Accept` header wants OpenMetrics; anything else gets the text format.
pub fn wants_openmetrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|part| {
            let mut words = part.split(';').map(str::trim);
            let refused = part.replace(' ', "").contains(";q=0;") || part.replace(' ', "").ends_with(";q=0");
            words.next() == Some("application/openmetrics-text") && !refused
        })
    })
}

/// Writes all metrics; `now` is seconds since 1970. The second value is the content type.
///
/// # Errors
/// Never in practice: writing to a string cannot fail.
pub fn encode(
    status: Status,
    instruments: &Instruments,
    now: u64,
    allowed_ips: bool,
    openmetrics: bool,
) -> Result<(String, &'static str), std::fmt::Error> {
    let mut registry = Registry::default();
    instruments.register(&mut registry);
    registry.register_collector(Box::new(Snapshot {
        status,
        now,
        allowed_ips,
    }));
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(if openmetrics {
        (written, OPENMETRICS)
    } else {
        (as_text(&written), TEXT)
    })
}

/// A status that is being scraped.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    now: u64,
    allowed_ips: bool,
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
        let routes = status.routes.iter().map(|count| {
            let family = if count.family == AddressFamily::Ipv4 {
                "ipv4"
            } else {
                "ipv6"
            };
            let labels = [
                ("family", family.to_owned()),
                ("table", count.table.to_string()),
                ("class", count.class.clone()),
            ];
            (labels.to_vec(), count.count as f64)
        });
        out.gauges("tunneld_routes", "Routes of ours in the kernel", routes)?;
        let repairs = status
            .repairs
            .iter()
            .map(|(kind, count)| (vec![("kind", kind.clone())], *count));
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

/// Turns OpenMetrics text into the older format: a counter's HELP and TYPE carry `_total` there, and
/// there is no end mark.
fn as_text(openmetrics: &str) -> String {
    let counters: std::collections::BTreeSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    for line in openmetrics
        .lines()
        .filter(|line| *line != "# EOF" && !line.starts_with("# UNIT "))
    {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|mark| {
            let (name, rest) = line.strip_prefix(mark)?.split_once(' ')?;
            counters.contains(name).then_some((mark, name, rest))
        });
        // Writing to a String cannot fail.
        let _ = match described {
            Some((mark, name, rest)) => writeln!(text, "{mark}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::status::PeerStatus;

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
            repairs: [("route".to_owned(), 4)].into(),
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
        assert!(text.contains("tunneld_repairs_total{kind=\"route\"} 4\n"));
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
}
