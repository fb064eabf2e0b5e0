//! What the control API can be asked. The daemon implements it; the HTTP server, and a test, call it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    guard::Session,
    probe::Probe,
    status::{ApplyReport, Author, Finding, HistoryEntry, PlanReport, Revision, Status},
    types::InterfaceName,
};

/// A document handed in for a plan or an apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Submission {
    /// The document's text, TOML, or JSON if its first character is `{`.
    pub document: String,
    /// Why, in the operator's words.
    #[serde(default)]
    pub comment: String,
    /// Seconds within which it has to be confirmed, or it reverts by itself; for good without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u32>,
    /// What confirms it by answering; all of them, within that time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// The session in which it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// It may cut off this session, whoever reads the metrics, and management networks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_cut: bool,
    /// The answer leaves out the operations: see [`LEAVE_OUT_OPERATIONS`].
    #[serde(skip)]
    pub brief: bool,
}

/// The query of a plan, an apply or a rollback whose caller reads the lines alone: of a large document the operations
/// are most of the answer.
pub const LEAVE_OUT_OPERATIONS: &str = "operations=false";

/// The time to confirm what may cut somebody off, in seconds, if none is named.
pub const CUT_CONFIRM: u32 = 300;

/// The shortest and the longest time to confirm, in seconds: to type a word, and over a weekend.
pub const CONFIRM: std::ops::RangeInclusive<u32> = 5..=259_200;

/// Which revision to go back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rollback {
    /// The revision; without a number the fallback of the one on trial, or the one applied before.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub comment: String,
    /// As [`Submission::confirm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u32>,
    /// As [`Submission::probes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// As [`Submission::session`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// As [`Submission::may_cut`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_cut: bool,
    /// As [`Submission::brief`].
    #[serde(skip)]
    pub brief: bool,
}

/// A revision with its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredDocument {
    /// Which.
    pub revision: Revision,
    /// The text as it was handed in.
    pub document: String,
}

/// The requests.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// The state of the box.
    async fn status(&self) -> Result<Status, Failure>;
    /// What an apply of this document would do.
    async fn plan(&self, submission: Submission) -> Result<PlanReport, Failure>;
    /// Applies a document: afterwards the kernel equals it, or the old state is back.
    async fn apply(&self, submission: Submission, author: Author) -> Result<ApplyReport, Failure>;
    /// The revision on trial stays.
    async fn confirm(&self, author: Author) -> Result<Option<Revision>, Failure>;
    /// Applies the document of a kept revision as a new one.
    async fn rollback(&self, rollback: Rollback, author: Author) -> Result<ApplyReport, Failure>;
    /// What happened, newest first, at most `limit`.
    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, Failure>;
    /// A kept revision; the one in force without a number.
    async fn show(&self, revision: Option<u64>) -> Result<StoredDocument, Failure>;
    /// Moves a tunnel's engine, or every engine, to the executable this daemon runs.
    async fn replace_engine(&self, tunnel: Option<InterfaceName>) -> Result<Vec<InterfaceName>, Failure>;
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// One line an operator can act on.
    pub message: String,
    /// The document's errors, where it has any: the object is `line:column path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// The kinds of failure, each with an exit code and an HTTP status of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The document has errors; nothing was changed. Exit 3, HTTP 422.
    Document,
    /// The kernel refused part of it; the previous state is back. Exit 4, HTTP 409.
    Refused,
    /// The kernel refused part of it, and the previous state could not be restored whole. Exit 5, HTTP 500.
    NotRestored,
    /// Another operation is running, or another daemon. Exit 6, HTTP 423.
    Busy,
    /// The store cannot be written. Exit 7, HTTP 507.
    Store,
    /// The caller may not do this. Exit 8, HTTP 403.
    Forbidden,
    /// No such revision or tunnel, or nothing to confirm. Exit 9, HTTP 404.
    NotFound,
    /// It would cut somebody off who reaches the appliance now; nothing was changed. Exit 11, HTTP 412.
    WouldCut,
    /// The request itself is wrong. Exit 2, HTTP 400.
    Request,
    /// The daemon does not answer. Exit 10.
    Unreachable,
    /// Anything else. Exit 1, HTTP 500.
    Internal,
}

impl Failure {
    /// A failure without findings.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            findings: Vec::new(),
        }
    }
}

impl FailureKind {
    /// The exit code of the command that met it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Request => 2,
            Self::Document => 3,
            Self::Refused => 4,
            Self::NotRestored => 5,
            Self::Busy => 6,
            Self::Store => 7,
            Self::Forbidden => 8,
            Self::NotFound => 9,
            Self::Unreachable => 10,
            Self::WouldCut => 11,
        }
    }

    /// The HTTP status of the answer that carries it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Request => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Refused => 409,
            Self::WouldCut => 412,
            Self::Document => 422,
            Self::Busy => 423,
            Self::NotRestored | Self::Internal | Self::Unreachable => 500,
            Self::Store => 507,
        }
    }
}
