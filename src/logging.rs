//! Logs: journald with structured fields where the service manager connected us to it, standard error
//! otherwise.
//!
//! journald can stall, and so can a terminal: whoever logs only fills a bounded queue, and one thread
//! empties it. What does not fit is dropped and counted ([`dropped`]).

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{
    Dispatch, Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    registry::Registry,
};

/// Records that wait for their writer at most.
const QUEUE: usize = 1024;

/// How long the end of the program waits for the last records.
const LAST_WORDS: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many records were dropped since the program started.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Reads a filter: a level, or a list of `target=level` with perhaps a level for all others, as in
/// `info,tunneld::kernel=debug`.
///
/// # Errors
/// One line that says what is wrong with it.
pub fn filter(text: &str) -> Result<Targets, String> {
    // To Targets, a word that is no level is a target.
    let bare = text.split(',').map(str::trim).filter(|part| !part.contains('='));
    for word in bare {
        word.parse::<LevelFilter>()
            .map_err(|_| format!("{word:?} is no level; write error, warn, info, debug or TARGET=LEVEL"))?;
    }
    text.parse()
        .map_err(|error| format!("{error}; write info, or info,tunneld=debug"))
}

/// Starts logging for the whole program, as [`filter`] says. One that cannot be read counts as `info`: a slip in a
/// service's environment keeps no appliance from starting. The last records are written when the result is dropped.
pub fn start(wanted: &str) -> Guard {
    let (sender, receiver) = sync_channel(QUEUE);
    let sink = Sink::choose();
    let (done, finished) = sync_channel(0);
    let started = thread::Builder::new().name("log".into()).spawn(move || {
        for record in receiver.iter().take_while(|record: &Record| record.level.is_some()) {
            sink.write(&record);
        }
        drop(done);
    });
    let read = filter(wanted);
    let complaint = read.as_ref().err().cloned();
    let targets = read.unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let subscriber = Registry::default().with(Forward { sender: sender.clone() }.with_filter(targets));
    if started.is_ok() {
        // A second call in one process keeps the first one's subscriber: nothing to do about it.
        tracing::subscriber::set_global_default(subscriber).ok();
    }
    if let Some(complaint) = complaint {
        tracing::warn!("what to log: {complaint}; info is logged");
    }
    Guard { sender, finished }
}

/// Writes what is still queued when it is dropped, for a second at most.
#[derive(Debug)]
pub struct Guard {
    sender: SyncSender<Record>,
    finished: Receiver<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The global subscriber keeps its sender for ever, so an end mark closes the queue.
        if self.sender.try_send(Record::END).is_ok() {
            let _: Result<(), RecvTimeoutError> = self.finished.recv_timeout(LAST_WORDS);
        }
    }
}

/// One event, owned, on its way to the writer.
#[derive(Debug, Default)]
struct Record {
    level: Option<Level>,
    target: &'static str,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Record {
    const END: Self = Self {
        level: None,
        target: "",
        message: String::new(),
        fields: Vec::new(),
    };
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.fields.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// The layer that queues.
struct Forward {
    sender: SyncSender<Record>,
}

impl<S: Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record {
            level: Some(*metadata.level()),
            target: metadata.target(),
            ..Record::default()
        };
        event.record(&mut record);
        if let Err(TrySendError::Full(_)) = self.sender.try_send(record) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where records end.
enum Sink {
    Journald(Dispatch),
    Stderr { colour: bool },
}

impl Sink {
    /// journald if standard error is connected to it (`JOURNAL_STREAM` in systemd.exec(5)).
    fn choose() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let ours = rustix::fs::fstat(io::stderr().as_fd())
            .ok()
            .map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        if stream.is_some() && stream == ours {
            if let Ok(layer) = tracing_journald::layer() {
                return Self::Journald(Dispatch::new(Registry::default().with(layer.with_field_prefix(None))));
            }
        }
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::Stderr { colour }
    }

    fn write(&self, record: &Record) {
        match (self, record.level) {
            (Self::Journald(dispatch), Some(level)) => {
                tracing::dispatcher::with_default(dispatch, || to_journald(record, level));
            }
            (Self::Stderr { colour }, Some(level)) => {
                // Nobody is left to tell when standard error fails.
                io::stderr()
                    .lock()
                    .write_all(line(record, level, *colour).as_bytes())
                    .ok();
            }
            (_, None) => {}
        }
    }
}

/// The fields that journald gets under names of their own, as `journalctl TUNNEL=wg0` wants them.
/// Whatever else an event carries is appended to its message.
const JOURNAL_FIELDS: [&str; 8] = [
    "tunnel", "peer", "object", "revision", "attempt", "reason", "found", "user",
];

/// Emits the record once more, where only journald's layer listens. A call site is fixed at compile
/// time, hence one per level and the closed list of fields.
fn to_journald(record: &Record, level: Level) {
    let [tunnel, peer, object, revision, attempt, reason, found, user] = JOURNAL_FIELDS.map(|name| {
        record
            .fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.as_str())
    });
    let mut message = record.message.clone();
    append(
        &mut message,
        record.fields.iter().filter(|(name, _)| !JOURNAL_FIELDS.contains(name)),
    );
    let module = record.target;
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(
                $level,
                tunnel,
                peer,
                object,
                revision,
                attempt,
                reason,
                found,
                user,
                module,
                "{message}"
            )
        };
    }
    match level {
        Level::ERROR => emit!(Level::ERROR),
        Level::WARN => emit!(Level::WARN),
        Level::INFO => emit!(Level::INFO),
        Level::DEBUG => emit!(Level::DEBUG),
        _ => emit!(Level::TRACE),
    }
}

/// `warning: message key=value …`, as programs write to standard error.
fn line(record: &Record, level: Level, colour: bool) -> String {
    let (word, code) = match level {
        Level::ERROR => ("error", "31"),
        Level::WARN => ("warning", "33"),
        Level::INFO => ("info", "32"),
        _ => ("debug", "2"),
    };
    let mut text = record.message.clone();
    append(&mut text, record.fields.iter());
    // One record is one line, and no name or answer from outside commands the terminal.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if colour {
        format!("\x1b[{code}m{word}\x1b[0m: {text}\n")
    } else {
        format!("{word}: {text}\n")
    }
}

fn append<'a>(line: &mut String, fields: impl Iterator<Item = &'a (&'static str, String)>) {
    for (name, value) in fields {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        line.push_str(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let record = Record {
            level: Some(Level::WARN),
            target: "t",
            message: "repaired\n\x1b[2Jx".into(),
            fields: vec![("object", "route 10.0.0.0/8".into())],
        };
        assert_eq!(
            line(&record, Level::WARN, false),
            "warning: repaired  [2Jx object=route 10.0.0.0/8\n"
        );
    }

    #[test]
    fn a_filter_is_made_of_levels() {
        for good in ["info", "WARN", "off", "info,tunneld::kernel=debug", "tunneld=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["bogus", "info,bogus", "tunneld=bogus"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (sender, _receiver) = sync_channel(1);
        let subscriber = Registry::default().with(Forward { sender });
        let before = dropped();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..5 {
                tracing::info!("x");
            }
        });
        assert_eq!(dropped() - before, 4);
    }
}
