//! The daemon's way to an engine that outlives it: outside its control group, never its child.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    time::timeout,
};

use super::{
    activation::{self, request},
    error::EngineError,
    launch::{self, Options},
    outcome::{self, attempt, heard},
};

/// How long an engine may take to start.
const START: Duration = Duration::from_secs(15);

/// Starts engines.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program to start: this one, or in tests the one that was built along.
    executable: PathBuf,
    /// Where systemd starts one for whoever connects: a child of ours would die with the daemon's control group.
    systemd: Option<PathBuf>,
}

impl Launcher {
    /// Finds out who has to start engines here: systemd, if it started us, else we ourselves.
    ///
    /// # Errors
    /// When the program's own file cannot be found.
    pub fn detect() -> io::Result<Self> {
        let unit = std::env::var_os("INVOCATION_ID").is_some() && Path::new("/run/systemd/system").exists();
        Ok(Self {
            executable: launch::executable()?,
            systemd: unit.then(|| activation::SOCKET.into()),
        })
    }

    /// Starts engines from `executable`, without a service manager.
    pub fn direct(executable: impl Into<PathBuf>) -> Self {
        Self {
            executable: executable.into(),
            systemd: None,
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
        let starting = async {
            match &self.systemd {
                Some(socket) => ask(socket, options).await,
                None => run(&self.executable, options).await,
            }
        };
        let started = timeout(START, starting).await;
        started
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| EngineError::new(attempt(options), error))
    }
}

/// Has systemd start one.
async fn ask(socket: &Path, options: &Options) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unheard(socket, &error))?;
    stream.write_all(request(options).as_bytes()).await?;
    let mut said = String::new();
    let mut answer = BufReader::new(stream.take(outcome::MOST_BYTES));
    match answer.read_line(&mut said).await {
        // It ended without having read what we said.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ => {}
    }
    if said.is_empty() {
        let next = "its process ended without a word; journalctl -u 'tunneld-engine@*' has its last ones";
        return Err(io::Error::other(next));
    }
    heard(options, &said)
}

fn unheard(socket: &Path, error: &io::Error) -> io::Error {
    let next = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; systemctl start tunneld-engine.socket",
        io::ErrorKind::PermissionDenied => "; SocketUser= of tunneld-engine.socket has to be the daemon's user",
        _ => "",
    };
    io::Error::new(error.kind(), format!("connect to {}: {error}{next}", socket.display()))
}

/// Starts one and lets go of it. The program returns when its own child, in a session of its own, accepts: ours to
/// reap is only the former.
async fn run(executable: &Path, options: &Options) -> io::Result<()> {
    let mut command = Command::new(executable);
    command.args(launch::arguments(options, ""));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("the program said nothing");
    let reason = said
        .split_once(&format!("{}: ", attempt(options)))
        .map_or(said, |(_, reason)| reason);
    // The exit codes of `tunneld engine`, as `tunneld --help` lists them.
    let kind = match output.status.code() {
        Some(6) => io::ErrorKind::ResourceBusy,
        Some(8) => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, reason))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn options() -> Options {
        Options::new("wg0".parse().unwrap(), 1420)
    }

    #[tokio::test]
    async fn what_the_program_says_is_the_reason() {
        let error = Launcher::direct("/bin/ls").launch(&options()).await.unwrap_err();
        assert!(error.to_string().starts_with("start the engine of wg0: "), "{error}");
        let error = Launcher::direct("/nonexistent").launch(&options()).await.unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn what_systemd_s_engine_says_is_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let launcher = Launcher {
            executable: "/nonexistent".into(),
            systemd: Some(socket.clone()),
        };
        let error = launcher.launch(&options()).await.unwrap_err();
        assert!(
            error.to_string().contains("systemctl start tunneld-engine.socket"),
            "{error}"
        );
        let listener = UnixListener::bind(&socket).unwrap();
        for (said, reason) in [
            ("", Some("journalctl")),
            ("ready\n", None),
            (
                "running start the engine of wg0: already running, pid 7\n",
                Some("pid 7"),
            ),
            (
                "other hear which engine is wanted: this is no request\n",
                Some("no request"),
            ),
        ] {
            let engine = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = vec![0; request(&options()).len()];
                stream.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, request(&options()).as_bytes());
                stream.write_all(said.as_bytes()).await.unwrap();
            };
            let wanted = options();
            let (result, ()) = tokio::join!(launcher.launch(&wanted), engine);
            let result = result.map_err(|error| error.to_string());
            match reason {
                None => assert_eq!(result, Ok(())),
                Some(reason) => assert!(result.as_ref().is_err_and(|error| error.contains(reason)), "{result:?}"),
            }
        }
    }
}
