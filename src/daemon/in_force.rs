//! What the store says is in force when the daemon starts.

use std::time::Duration;

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
}

impl InForce {
    /// Reads it.
    pub(super) fn read(store: &Store) -> Self {
        let document = store.live().and_then(|stored| {
            let live = understand(&stored)?;
            Some((live, stored.document))
        });
        let trial = document.is_some().then(|| store.trial()).flatten();
        Self {
            probes: trial.as_ref().map(|trial| trial.probes.clone()).unwrap_or_default(),
            trial: trial.and_then(|trial| remaining(store, &trial)),
            document,
        }
    }
}

/// What is left of a trial. A reboot ends it: whoever could not reach the appliance may have pulled its plug.
fn remaining(store: &Store, trial: &store::Trial) -> Option<Trial> {
    let fallback = match trial.fallback {
        Some(_) => understand(&store.fallback()?)?,
        None => Live::default(),
    };
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

fn understand(stored: &StoredDocument) -> Option<Live> {
    let revision = Some(stored.revision.clone());
    let meaning = |(_, desired, _): (_, Desired, _)| Live { revision, desired };
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
