//! What the service manager is told (`sd_notify(3)`); without one, nothing happens.
//!
//! A manager that does not read must not stop the loop: what its socket has no room for is not sent.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;

use crate::model::status::State;

/// Says when the daemon is ready, how it is, and that it lives; by default to nobody.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<OsString>,
    /// After what silence it acts.
    patience: Option<Duration>,
    ready: bool,
    told: Option<State>,
}

impl ServiceManager {
    /// The one that started this process, if one did.
    pub fn of_this_process() -> Self {
        Self {
            socket: env::var_os("NOTIFY_SOCKET"),
            patience: sd_notify::watchdog_enabled(),
            ..Self::default()
        }
    }

    /// One that listens at `socket` and acts after a silence of `patience`.
    #[cfg(test)]
    pub(super) fn at(socket: impl Into<OsString>, patience: Duration) -> Self {
        Self {
            socket: Some(socket.into()),
            patience: Some(patience),
            ..Self::default()
        }
    }

    /// The world has been read, or an attempt to read it has failed: whoever waited for us may go on.
    pub(super) fn ready(&mut self) {
        if !self.ready {
            self.ready = self.tell(&NotifyState::Ready);
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
            State::SafeMode(reason) => format!("safe mode: {reason}"),
        };
        if self.tell(&NotifyState::Status(&text)) {
            self.told = Some(state);
        }
    }

    /// How often to say that the main loop turns: twice in the time after which the manager would act.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.patience.map(|patience| patience / 2)
    }

    /// The main loop turns. Only the loop itself may say so.
    pub(super) fn alive(&self) {
        self.tell(&NotifyState::Watchdog);
    }

    /// The daemon is about to end.
    pub(super) fn stopping(&self) {
        self.tell(&NotifyState::Stopping);
    }

    /// Whether it was told, or there is nobody to tell.
    fn tell(&self, state: &NotifyState<'_>) -> bool {
        let Some(path) = &self.socket else {
            return true;
        };
        match send(path, &state.to_string()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the service manager cannot be told");
                false
            }
        }
    }
}

fn send(path: &OsStr, text: &str) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let path = OsString::from(path);
        send(&path, "READY=1").unwrap();
        while send(&path, "STATUS=more").is_ok() {}
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
    }
}
