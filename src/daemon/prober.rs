//! Gathers the evidence that confirms a revision on trial.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use super::main_loop::Message;
use crate::{
    health::probe,
    kernel::tcp,
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
    let scrapes = instruments.remote_scrapes();
    let mut sessions = Sessions::default();
    sessions.look(&probes).await;
    let evidence: Vec<String> = probes.iter().map(ToString::to_string).collect();
    let evidence = format!("answered: {}", evidence.join(", "));
    let mut rounds = interval(INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut good = 0;
    loop {
        rounds.tick().await;
        let scraped = instruments.remote_scrapes() > scrapes;
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

/// What the other ends of sessions have acknowledged, at first and now.
#[derive(Default)]
struct Sessions(BTreeMap<Session, (u64, Result<u64, String>)>);

impl Sessions {
    /// Looks at all of them.
    async fn look(&mut self, probes: &[Probe]) {
        for probe in probes {
            let Probe::Session(Some(session)) = probe else { continue };
            let now = match tcp::acknowledged(*session).await {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err("there is no such connection any more".to_owned()),
                Err(reason) => Err(reason),
            };
            let first = now.clone().unwrap_or(u64::MAX);
            self.0.entry(*session).or_insert((first, Ok(0))).1 = now;
        }
    }

    /// Whether something has arrived at the other end that was sent since the first look.
    fn answer(&self, session: &Session) -> Result<(), String> {
        match self.0.get(session) {
            Some((first, Ok(now))) if now > first => Ok(()),
            Some((_, Err(reason))) => Err(reason.clone()),
            _ => Err("nothing was acknowledged yet".to_owned()),
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
