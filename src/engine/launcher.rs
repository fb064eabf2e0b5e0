//! The daemon's way to an engine that outlives it: outside its control group, never its child.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{
    error::EngineError,
    launch::{self, Options},
};

/// How long an engine may take to start.
const START: Duration = Duration::from_secs(15);

/// Starts engines.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program to start: this one, or in tests the one that was built along.
    executable: PathBuf,
    /// Ask systemd instead, because a child would die with the daemon's control group.
    systemd: bool,
}

impl Launcher {
    /// Finds out who has to start engines here: systemd, if it started us, else we ourselves.
    ///
    /// # Errors
    /// When the program's own file cannot be found.
    pub fn detect() -> io::Result<Self> {
        let unit = std::env::var_os("INVOCATION_ID").is_some();
        Ok(Self {
            executable: launch::executable()?,
            systemd: unit && Path::new("/run/systemd/system").exists(),
        })
    }

    /// Starts engines from `executable`, without a service manager.
    pub fn direct(executable: impl Into<PathBuf>) -> Self {
        Self {
            executable: executable.into(),
            systemd: false,
        }
    }

    /// The program that engines run.
    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Makes sure that the program is one that an engine can become.
    pub(super) async fn check(&self) -> Result<(), EngineError> {
        let failed = |error| EngineError::new(format!("ask {} for its version", self.executable.display()), error);
        let mut command = Command::new(&self.executable);
        let asked = command
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let told = timeout(START, asked)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let told = told.map_err(failed)?.stdout;
        if told.starts_with(b"tunneld ") {
            return Ok(());
        }
        Err(failed(io::Error::other("it does not say that it is tunneld")))
    }

    /// Starts an engine and returns when its socket accepts.
    pub(super) async fn launch(&self, options: &Options) -> Result<(), EngineError> {
        let attempt = format!("start the engine of {}", options.name);
        let failed = |error| EngineError::new(attempt.clone(), error);
        let mut command = self.command(options);
        let started = timeout(START, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
        let output = started
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("the program said nothing");
        let reason = said
            .split_once(&format!("{attempt}: "))
            .map_or(said, |(_, reason)| reason);
        // The exit codes of `tunneld engine`, as `tunneld --help` lists them.
        let kind = match output.status.code() {
            Some(6) => io::ErrorKind::ResourceBusy,
            Some(8) => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        Err(failed(io::Error::new(kind, reason)))
    }

    fn command(&self, options: &Options) -> Command {
        if !self.systemd {
            // The program returns when its own child, in a session of its own, accepts: ours to reap is only
            // the former.
            let mut command = Command::new(&self.executable);
            command.args(launch::arguments(options, ""));
            return command;
        }
        let mut command = Command::new("systemctl");
        // Not "start": the unit of an engine that ended a moment ago may still count as running.
        command.args(["--no-ask-password", "restart", &unit(options.name.as_str())]);
        command
    }
}

/// The unit of an interface's engine, its name escaped as `systemd-escape(1)` does, so that `%I` gives it back.
fn unit(interface: &str) -> String {
    let mut instance = String::new();
    for (place, byte) in interface.bytes().enumerate() {
        match byte {
            b'.' if place == 0 => instance.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => instance.push(char::from(byte)),
            _ => instance.push_str(&format!("\\x{byte:02x}")),
        }
    }
    format!("tunneld-engine@{instance}.service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_systemd_escape_does() {
        // systemd-escape --template=tunneld-engine@.service NAME
        for (interface, expected) in [
            ("wg0", "wg0"),
            ("wg-a.1", "wg\\x2da.1"),
            (".x", "\\x2ex"),
            ("a+b@c", "a\\x2bb\\x40c"),
        ] {
            assert_eq!(unit(interface), format!("tunneld-engine@{expected}.service"));
        }
    }

    #[tokio::test]
    async fn what_the_program_says_is_the_reason() {
        let options = Options {
            name: "wg0".parse().unwrap(),
            mtu: 1420,
            alias: None,
            take_over: false,
        };
        let error = Launcher::direct("/bin/ls").launch(&options).await.unwrap_err();
        assert!(error.to_string().starts_with("start the engine of wg0: "), "{error}");
        let error = Launcher::direct("/nonexistent").launch(&options).await.unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
