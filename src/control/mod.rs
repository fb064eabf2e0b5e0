//! HTTP and JSON on a Unix socket: the server, and the client that the commands use.
//!
//! | request | who | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | viewer | [`Status`](crate::model::status::Status) |
//! | `GET /v1/history?limit=N` | viewer | list of [`HistoryEntry`](crate::model::status::HistoryEntry), newest first |
//! | `GET /v1/revisions/N`, `/v1/revisions/live` | viewer | [`StoredDocument`](crate::model::service::StoredDocument) |
//! | `GET /v1/schema` | viewer | JSON schema of the document |
//! | `POST /v1/plan` | admin | [`PlanReport`](crate::model::status::PlanReport) for a [`Submission`](crate::model::service::Submission) |
//! | `POST /v1/apply` | admin | [`ApplyReport`](crate::model::status::ApplyReport) for a [`Submission`](crate::model::service::Submission) |
//! | `POST /v1/confirm` | admin | [`Revision`](crate::model::status::Revision) that stays |
//! | `POST /v1/rollback` | admin | [`ApplyReport`](crate::model::status::ApplyReport) for a [`Rollback`](crate::model::service::Rollback) |
//! | `POST /v1/engines/replace` | admin | list of tunnels, for an [`EngineRequest`] |
//!
//! Every refusal is a [`Failure`](crate::model::service::Failure) with the HTTP status of its kind. Who asks
//! is what the kernel says about the other end of the socket ([`access`]); nothing in a request counts.

pub mod access;
pub mod client;
pub(crate) mod connections;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::model::{document, types::InterfaceName};

/// The longest request body: the largest document as JSON text, whose line ends and quotes take two bytes
/// instead of one, and the comment.
pub const MAX_REQUEST_BYTES: usize = document::MAX_BYTES * 2 + (64 << 10);

/// History entries in an answer whose request names no limit.
pub const DEFAULT_HISTORY: usize = 50;

/// The most history entries in an answer.
pub const MAX_HISTORY: usize = 1_000;

/// Which engines to move to the executable that the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EngineRequest {
    /// One tunnel's; every one without it.
    #[serde(default)]
    pub tunnel: Option<InterfaceName>,
}
