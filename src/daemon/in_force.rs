//! What the store says is in force when the daemon starts.

use std::time::Duration;

use super::starts::{GO_BACK, Starts};
use crate::{
    health::clock,
    model::{
        check,
        desired::Desired,
        probe::Probe,
        reconcile::{Live, Trial},
        service::StoredDocument,
    },
    store::{self, Store},
};

/// The document in force, and whether it has to be confirmed.
#[derive(Debug, Default)]
pub(super) struct InForce {
    /// The document's meaning and its text. One that this version no longer takes is left alone, and so is
    /// everything it once made.
    pub(super) document: Option<(Live, String)>,
    /// Its trial; the deadline is the time that is left.
    pub(super) trial: Option<Trial>,
    /// What confirms it by answering.
    pub(super) probes: Vec<Probe>,
    /// Why nothing is done about it until somebody applies a document.
    pub(super) safe: Option<String>,
}

impl InForce {
    /// Reads it. After too many starts that did not last, it ends as a trial does: the last revision that was
    /// confirmed comes back; where that did not help, or there is none, safe mode.
    pub(super) fn read(store: &Store, starts: &Starts) -> Self {
        let stored = Self::stored(store);
        if !starts.go_back() {
            return stored;
        }
        let because = starts.reason();
        let again = starts.failures() > GO_BACK;
        let fallback = stored
            .document
            .as_ref()
            .filter(|_| !again)
            .and_then(|_| last_confirmed(store));
        match fallback {
            Some(fallback) => Self {
                trial: Some(Trial {
                    fallback,
                    deadline: Duration::ZERO,
                    because,
                }),
                probes: Vec::new(),
                ..stored
            },
            None if again => Self {
                safe: Some(because),
                ..stored
            },
            None => Self {
                safe: Some(format!(
                    "{because}, and no other revision that was confirmed can be read"
                )),
                ..stored
            },
        }
    }

    fn stored(store: &Store) -> Self {
        let document = store.live().and_then(|stored| {
            let live = understand(&stored)?;
            Some((live, stored.document))
        });
        let trial = store.trial();
        let probes = trial.as_ref().map(|trial| trial.probes.clone());
        let trial = trial.and_then(|trial| remaining(store, &trial));
        // What is on trial and means nothing to this version is confirmed by nobody.
        let (trial, probes) = match &document {
            Some(_) => (trial, probes),
            None => (trial.map(given_up), None),
        };
        Self {
            probes: probes.unwrap_or_default(),
            trial,
            document,
            safe: None,
        }
    }
}

/// What was in force for good before the document in force.
fn last_confirmed(store: &Store) -> Option<Live> {
    if let Some(trial) = store.trial() {
        return fallback(store, &trial);
    }
    let before = store.confirmed_before().inspect_err(|error| tracing::error!("{error}"));
    understand(&before.ok()??)
}

fn fallback(store: &Store, trial: &store::Trial) -> Option<Live> {
    match trial.fallback {
        Some(_) => understand(&store.fallback()?),
        None => Some(Live::default()),
    }
}

/// What is left of a trial. A reboot ends it: whoever could not reach the appliance may have pulled its plug.
fn remaining(store: &Store, trial: &store::Trial) -> Option<Trial> {
    let fallback = fallback(store, trial)?;
    let (deadline, because) = match trial.deadline.remaining(&clock::moment()) {
        Some(left) => (left, "nobody confirmed it in time"),
        None => (Duration::ZERO, "the appliance restarted before anybody confirmed it"),
    };
    Some(Trial {
        fallback,
        deadline,
        because: because.to_owned(),
    })
}

fn given_up(trial: Trial) -> Trial {
    Trial {
        deadline: Duration::ZERO,
        because: "this version does not take the document on trial".to_owned(),
        ..trial
    }
}

fn understand(stored: &StoredDocument) -> Option<Live> {
    let revision = Some(stored.revision.clone());
    let meaning = |(_, desired, _): (_, Desired, _)| Live {
        revision,
        desired: desired.into(),
    };
    let understood = check::validate(&stored.document).map(meaning);
    understood
        .inspect_err(|errors| {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            tracing::error!(
                revision = stored.revision.number,
                "the document in force is not valid for this version, so nothing is changed until \
                 another is applied: {first}"
            );
        })
        .ok()
}
