//! Gathers the evidence that confirms a revision on trial.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use super::main_loop::Message;
use crate::{
    health::probe,
    metrics::Instruments,
    model::{probe::Probe, status::Finding},
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
    let evidence: Vec<String> = probes.iter().map(ToString::to_string).collect();
    let evidence = format!("answered: {}", evidence.join(", "));
    let mut rounds = interval(INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut good = 0;
    loop {
        rounds.tick().await;
        let scraped = instruments.remote_scrapes() > scrapes;
        let answers = round(&probes, scraped).await;
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

/// Asks all at once.
async fn round(probes: &[Probe], scraped: bool) -> Vec<Finding> {
    let mut asked = JoinSet::new();
    for (index, probe) in probes.iter().cloned().enumerate() {
        asked.spawn(async move {
            let answer = match probe {
                Probe::Scraped if scraped => Ok(()),
                ref probe => probe::ask(probe).await,
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
