//! What the control API answers: the state of the box in terms of the document, for people (`tunneld
//! status`), programs (`--json`) and metrics alike. Times are seconds since 1970 (UTC).

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    document::Family,
    ports::{Backend, Operation},
    types::{Fwmark, InterfaceName, PublicKey, TableId},
};

/// The whole status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: u64,
    /// The appliance's name.
    pub name: Option<String>,
    /// The revision in force.
    pub revision: Option<Revision>,
    /// It is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
    /// How the kernel compares with it.
    pub state: State,
    /// How far an apply has come that changes something now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// How often in a row the daemon had ended soon after its start before it started this time.
    #[serde(default)]
    pub failed_starts: u32,
    /// Tunnels by name.
    pub tunnels: Vec<Tunnel>,
    /// What is waiting, and for what.
    pub waiting: Vec<Finding>,
    /// What a foreign object keeps out.
    pub conflicts: Vec<Finding>,
    /// Routes of ours that are in the kernel.
    pub routes: Vec<RouteCount>,
    /// Repairs since the daemon started, by the kind of operation that repaired.
    pub repairs: BTreeMap<String, u64>,
    /// What bounded queues dropped since the daemon started, by queue: `log`, `announcements`.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// The store.
    pub store: StoreStatus,
    /// When the kernel was last read whole.
    pub observed: Option<u64>,
    /// What the kernel can do (see `tunneld doctor`).
    pub capabilities: BTreeMap<String, bool>,
}

/// Operations of an apply, those of one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProgressStatus {
    /// Carried out, about.
    pub done: usize,
    /// In all.
    pub total: usize,
}

/// The revision in force goes unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrialStatus {
    /// The revision that comes back; without one, none was applied before.
    pub fallback: Option<u64>,
    /// In how many seconds.
    pub seconds: f64,
    /// What has to answer, and what it said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Finding>,
}

/// How the kernel compares with the revision in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "because")]
pub enum State {
    /// No document was ever applied.
    #[default]
    Empty,
    /// Starting: the kernel has not been read yet.
    Starting,
    /// Equal, but for what is waiting.
    InSync,
    /// An apply is running.
    Applying,
    /// Different, and being repaired or backing off; the text says what failed last.
    Drifted(String),
    /// The kernel cannot be read.
    Blind(String),
    /// The daemon ended again and again, and nothing is done about the kernel until somebody applies a document.
    SafeMode(String),
}

/// Something about an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The object, in the words of the plan.
    pub object: String,
    /// What is the matter with it.
    pub reason: String,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tunnel {
    /// Its interface.
    pub name: InterfaceName,
    /// Its state, the worst of its peers' where the interface itself is well.
    pub state: TunnelState,
    /// Who carries it, if it is there.
    pub backend: Option<Backend>,
    /// Version of the engine that runs it, where one does.
    pub engine: Option<String>,
    /// Its public key, once it has one.
    pub public_key: Option<PublicKey>,
    /// UDP port.
    pub listen_port: u16,
    /// Mark of encrypted packets.
    pub fwmark: Fwmark,
    /// MTU, if it is there.
    pub mtu: Option<u32>,
    /// Addresses it has.
    pub addresses: Vec<String>,
    /// How many of our routes use it.
    pub routes: usize,
    /// Repairs of it since the daemon started.
    pub repairs: u64,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
}

/// The state of a tunnel or a peer, with the reason an operator needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "because")]
pub enum TunnelState {
    /// A handshake within the last 180 s (REJECT_AFTER_TIME), or no peer is expected to be there.
    Up,
    /// Waiting for something that is not there.
    Waiting(String),
    /// No handshake since the time given, or ever; the text says so.
    NoHandshake(String),
    /// DNS has no answer for the endpoint's name.
    EndpointUnresolved(String),
    /// No route leads to the endpoint.
    NoRouteToEndpoint(String),
    /// The kernel or the engine refused it.
    Failed(String),
}

impl TunnelState {
    /// The word for it, as in the JSON form and the metrics' `state` label.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Waiting(_) => "waiting",
            Self::NoHandshake(_) => "no-handshake",
            Self::EndpointUnresolved(_) => "endpoint-unresolved",
            Self::NoRouteToEndpoint(_) => "no-route-to-endpoint",
            Self::Failed(_) => "failed",
        }
    }

    /// The reason, empty when up.
    pub fn reason(&self) -> &str {
        match self {
            Self::Up => "",
            Self::Waiting(reason)
            | Self::NoHandshake(reason)
            | Self::EndpointUnresolved(reason)
            | Self::NoRouteToEndpoint(reason)
            | Self::Failed(reason) => reason,
        }
    }

    /// All words, for metrics that show every state.
    pub const WORDS: [&'static str; 6] = [
        "up",
        "waiting",
        "no-handshake",
        "endpoint-unresolved",
        "no-route-to-endpoint",
        "failed",
    ];
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerStatus {
    /// Its public key.
    pub public_key: PublicKey,
    /// Its name for people.
    pub name: Option<String>,
    /// Its state.
    pub state: TunnelState,
    /// The endpoint of the document.
    pub endpoint: Option<String>,
    /// Where packets go now.
    pub current_endpoint: Option<SocketAddr>,
    /// When the last handshake completed.
    pub last_handshake: Option<u64>,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Allowed IPs.
    pub allowed_ips: Vec<String>,
}

/// A number of routes of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteCount {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: TableId,
    /// `static` or `floating`.
    pub class: String,
    /// How many.
    pub count: usize,
}

/// The store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreStatus {
    /// Bytes on disk.
    pub bytes: u64,
    /// Seconds the last flush and sync took.
    pub flush_seconds: f64,
    /// Why nothing can be stored at the moment, or what was restored from; empty when all is well.
    pub trouble: String,
}

/// A stored document: everything about it but its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Revision {
    /// Its number; the first is 1.
    pub number: u64,
    /// When it was applied.
    pub time: u64,
    /// Who applied it.
    pub author: Author,
    /// Why, in their words.
    pub comment: String,
}

/// Who asked: the peer credentials of the control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Author {
    /// User id.
    pub uid: u32,
    /// User name, if the uid has one.
    pub user: Option<String>,
    /// Process id.
    pub pid: Option<i32>,
}

/// One line of `tunneld history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryEntry {
    /// When.
    pub time: u64,
    /// What happened: `applied`, `tried` (applied, but to be confirmed), `confirmed`, `reverted`, `failed`,
    /// `restored`, `repaired` or `safe-mode`.
    pub event: String,
    /// The revision it was about.
    pub revision: Option<u64>,
    /// Who asked, if somebody did.
    pub author: Option<Author>,
    /// Comment, error, or what was repaired.
    pub detail: String,
}

/// Operations as JSON, a list: written once, and taken apart by nobody but those who ask for JSON. As values, those of
/// a large document would be ten times their size.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationList(Box<RawValue>);

impl OperationList {
    /// These operations.
    pub fn of(operations: &[Operation]) -> Self {
        to_raw_value(operations).map_or_else(|_| Self::default(), Self)
    }

    /// The list as JSON.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl Default for OperationList {
    fn default() -> Self {
        // Only text that is no JSON is refused.
        Self(RawValue::from_string("[]".to_owned()).unwrap_or_default())
    }
}

impl PartialEq for OperationList {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

/// What an apply would do, or did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanReport {
    /// Operations in order, as [`super::ports::Operation`] serialises; secrets read "(hidden)". None if nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<OperationList>,
    /// The same for people, a line each: `+` adds, `-` deletes, `~` changes.
    pub lines: Vec<String>,
    /// What will be waiting.
    pub waiting: Vec<Finding>,
    /// What a foreign object keeps out.
    pub conflicts: Vec<Finding>,
    /// What this machine lacks for the document, such as a key file that others can read.
    pub machine: Vec<Finding>,
    /// Tunnels that get another identity than before: peers have to learn a public key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Finding>,
    /// Who reaches this appliance now and would not any more, or may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<Finding>,
    /// What will work but not as intended.
    pub warnings: Vec<Finding>,
}

/// A successful apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ApplyReport {
    /// The new revision; the one in force if the document was the same.
    pub revision: Revision,
    /// What was done.
    pub plan: PlanReport,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// It has to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
}
