//! What the store keeps, as types: the same in the database and in the export.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::model::{
    desired::Sysctl,
    ledger::Ledger,
    probe::Probe,
    service::StoredDocument,
    status::Revision,
    types::{Deadline, InterfaceName, PrivateKey, Secret},
};

use super::error::StoreError;

/// What a restart has to find, whatever became of the database: this is the export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Contents {
    /// Numbers and pointers.
    pub(super) pointers: Pointers,
    /// The revision in force.
    pub(super) live: Option<StoredDocument>,
    /// While that is on trial, what comes back unless it is confirmed; nothing, for the empty state.
    #[serde(default)]
    pub(super) fallback: Option<StoredDocument>,
    /// Generated private keys.
    pub(super) keys: BTreeMap<InterfaceName, KeptKey>,
    /// What the kernel cannot say for us.
    pub(super) ledger: Ledger,
}

/// Numbers and pointers: one record, written with every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Pointers {
    /// Grows with every change. A database that is behind its export has lost acknowledged changes.
    pub(super) sequence: u64,
    /// Number of the last revision; 0 before the first.
    pub(super) last_revision: u64,
    /// Number of the last history entry; 0 before the first.
    pub(super) last_history: u64,
    /// The revision in force.
    pub(super) live: Option<u64>,
    /// The apply that is under way, or was when the daemon died.
    pub(super) pending: Option<Pending>,
    /// The revision in force has to be confirmed.
    #[serde(default)]
    pub(super) trial: Option<Trial>,
    /// The last time stored, in seconds since 1970.
    pub(super) clock_floor: Option<u64>,
    /// The boot (`/proc/sys/kernel/random/boot_id`) whose clock showed it.
    #[serde(default)]
    pub(super) clock_boot: String,
}

/// An apply that has begun and neither succeeded nor failed. Found after a start, it means that the daemon
/// died meanwhile: the fallback has to be put back and the revision failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pending {
    /// The revision being applied.
    pub revision: Revision,
    /// The revision to go back to; without one, to nothing.
    pub fallback: Option<u64>,
    /// Foreign values of the settings that the apply changes.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// What has to answer once it is on trial.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// The revision in force goes, and its fallback comes back, unless it is confirmed in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// The revision that comes back; without one, nothing.
    pub fallback: Option<u64>,
    /// When.
    pub deadline: Deadline,
    /// What confirms it by answering.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// A kept revision and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeptRevision {
    /// Which.
    pub revision: Revision,
    /// What became of it.
    pub status: RevisionStatus,
    /// Bytes of its document.
    pub bytes: u64,
}

/// What became of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "because")]
pub enum RevisionStatus {
    /// Its apply has begun.
    Pending,
    /// The kernel equalled it.
    Applied,
    /// Its apply failed, and why.
    Failed(String),
    /// It was in force on trial and nobody confirmed it, or why else it went.
    Reverted(String),
}

/// How a store was found when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It was not there.
    New,
    /// It was there and is whole.
    Existing,
    /// The database was lost or damaged; the live revision, the keys and the ledger came from the export.
    Restored {
        /// What was wrong with the database.
        because: String,
    },
    /// The database was damaged and there was no good export: a new one was begun.
    Lost {
        /// What was wrong with both.
        because: String,
    },
    /// Nothing can be written at the moment; what there is to read comes from the export.
    Degraded(StoreError),
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("a new store"),
            Self::Existing => f.write_str("the store is whole"),
            Self::Restored { because } => write!(f, "the store was restored from its export: {because}"),
            Self::Lost { because } => write!(f, "the store was lost and begun anew: {because}"),
            Self::Degraded(error) => write!(f, "the store cannot be written: {error}"),
        }
    }
}

/// A private key that serialises, which [`PrivateKey`] by design does not: the store alone may write keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptKey(pub(super) PrivateKey);

impl Serialize for KeptKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0.expose()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for KeptKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let secret = Secret::from_base64(&text).map_err(de::Error::custom)?;
        Ok(Self(PrivateKey::new(secret)))
    }
}
