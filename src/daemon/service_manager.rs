//! What the service manager is told (`sd_notify(3)`); without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::model::status::State;

/// Says when the daemon is ready, and how it is.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    ready: bool,
    told: Option<State>,
}

impl ServiceManager {
    /// The world has been read, or an attempt to read it has failed: whoever waited for us may go on.
    pub(super) fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Tells the state if it is another one.
    pub(super) fn state(&mut self, state: State) {
        if self.told.as_ref() == Some(&state) {
            return;
        }
        let text = match &state {
            State::Empty => "no document was applied yet".to_owned(),
            State::Starting => "starting".to_owned(),
            State::InSync => "the kernel equals the document".to_owned(),
            State::Applying => "applying a document".to_owned(),
            State::Drifted(reason) => format!("repairing: {reason}"),
            State::Blind(reason) => reason.clone(),
        };
        tell(&[NotifyState::Status(&text)]);
        self.told = Some(state);
    }
}

/// How often to say that the main loop turns: twice in the time after which the manager would act.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

/// The main loop turns.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The daemon is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
