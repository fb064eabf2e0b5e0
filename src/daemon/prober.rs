//! Gathers the evidence that confirms a revision on trial.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use super::main_loop::Message;
use crate::{
    health::probe,
    kernel::tcp::{self, Connection},
    metrics::Instruments,
    model::{guard::Session, probe::Probe, status::Finding},
};

/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Rounds in a row in which everything has to answer: one answer may be the last that an old path carried.
const ROUNDS: u32 = 3;

/// The task that asks; it ends when this is dropped.
pub(super) struct Prober {
    findings: watch::Receiver<Vec<Finding>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// Starts to ask; when everything has answered, `messages` gets the evidence.
    pub(super) fn start(probes: Vec<Probe>, instruments: Instruments, messages: mpsc::Sender<Message>) -> Self {
        let first = probes.iter().map(|probe| finding(probe, "not asked yet"));
        let (sender, findings) = watch::channel(first.collect());
        let task = tokio::spawn(ask(probes, instruments, sender, messages));
        Self { findings, task }
    }

    /// What has answered and what has not.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.borrow().clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(
    probes: Vec<Probe>,
    instruments: Instruments,
    findings: watch::Sender<Vec<Finding>>,
    messages: mpsc::Sender<Message>,
) {
    let began = Instant::now();
    let mut sessions = Sessions::default();
    sessions.look(&probes).await;
    let evidence: Vec<String> = probes.iter().map(ToString::to_string).collect();
    let evidence = format!("answered: {}", evidence.join(", "));
    let mut rounds = interval(INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut good = 0;
    loop {
        rounds.tick().await;
        let scraped = instruments.has_arrived_afar_since(began);
        sessions.look(&probes).await;
        let answers = round(&probes, scraped, &sessions).await;
        let answered = answers.iter().all(|finding| finding.reason == ANSWERED);
        findings.send_replace(answers);
        good = if answered { good + 1 } else { 0 };
        // Beyond that, what keeps the confirmation from being carried out may pass.
        if good >= ROUNDS && messages.send(Message::Proved(evidence.clone())).await.is_err() {
            return;
        }
    }
}

/// What a probe that answered reads.
const ANSWERED: &str = "answered";

/// The sessions that are watched.
#[derive(Default)]
struct Sessions(BTreeMap<Session, Watched>);

/// What is known of a session.
struct Watched {
    /// More than so many bytes have to be acknowledged: all that were sent before, and one for the `SYN`.
    past: u64,
    answer: Result<(), String>,
}

impl Sessions {
    /// Looks at all of them.
    async fn look(&mut self, probes: &[Probe]) {
        for probe in probes {
            let Probe::Session(Some(session)) = probe else { continue };
            let seen = tcp::look(*session).await;
            let seen = seen.map(|seen| seen.filter(Connection::is_established));
            self.0.entry(*session).or_insert_with(Watched::unknown).see(seen);
        }
    }

    fn answer(&self, session: &Session) -> Result<(), String> {
        let watched = self.0.get(session).map(|watched| watched.answer.clone());
        watched.unwrap_or_else(|| Watched::unknown().answer)
    }
}

impl Watched {
    fn unknown() -> Self {
        Self {
            past: u64::MAX,
            answer: Err("nothing was acknowledged yet".to_owned()),
        }
    }

    /// Something that is sent from now on has to arrive, and it counts until something else does not.
    fn see(&mut self, seen: Result<Option<Connection>, String>) {
        match seen {
            Ok(Some(now)) if now.retransmits > 0 => {
                self.past = now.sent + 1;
                self.answer = Err("what is sent there is not acknowledged".to_owned());
            }
            Ok(Some(now)) if self.past == u64::MAX => self.past = now.sent + 1,
            Ok(Some(now)) if now.acknowledged > self.past => self.answer = Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => self.answer = Err("there is no such connection any more".to_owned()),
            Err(reason) => self.answer = Err(reason),
        }
    }
}

/// Asks all at once.
async fn round(probes: &[Probe], scraped: bool, sessions: &Sessions) -> Vec<Finding> {
    let mut asked = JoinSet::new();
    for (index, probe) in probes.iter().cloned().enumerate() {
        let watched = match &probe {
            Probe::Scraped if scraped => Some(Ok(())),
            Probe::Session(Some(session)) => Some(sessions.answer(session)),
            _ => None,
        };
        asked.spawn(async move {
            let answer = match watched {
                Some(answer) => answer,
                None => probe::ask(&probe).await,
            };
            (index, finding(&probe, answer.err().as_deref().unwrap_or(ANSWERED)))
        });
    }
    let mut findings = Vec::new();
    while let Some(answer) = asked.join_next().await {
        findings.extend(answer);
    }
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn finding(probe: &Probe, reason: &str) -> Finding {
    Finding {
        object: probe.to_string(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_answers_by_what_was_sent_after_the_first_look_and_until_something_is_sent_again() {
        let at = |sent, acknowledged, retransmits| {
            let connection = Connection {
                sent,
                acknowledged,
                retransmits,
                ..Connection::default()
            };
            Ok(Some(connection))
        };
        let mut watched = Watched::unknown();
        // In flight at the first look: 100 bytes, whose acknowledgement comes later.
        for seen in [at(300, 200, 0), at(300, 301, 0), at(310, 301, 0)] {
            watched.see(seen);
            assert!(watched.answer.is_err());
        }
        watched.see(at(310, 311, 0));
        assert_eq!(watched.answer, Ok(()));
        for (seen, answers) in [
            (at(320, 311, 0), true),
            (at(320, 311, 1), false),
            (at(320, 321, 0), false),
            (at(330, 331, 0), true),
            (Ok(None), false),
        ] {
            watched.see(seen.clone());
            assert_eq!(watched.answer.is_ok(), answers, "{seen:?}");
        }
    }
}
