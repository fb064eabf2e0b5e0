//! Work for a disk whose every write is recorded outside, for `tests/soak power`. What the daemon's answers say goes
//! to the same disk, behind the file system and without a flush, so that the record of writes orders both, and no
//! flush of ours helps the store.

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
};

use nix::libc::O_DIRECT;
use tunneld::{
    control::client::Client,
    model::service::{Rollback, Submission},
};

use crate::{
    appliance::Appliance,
    harness::executable,
    workload::{Acknowledged, RECORD, STEPS, Step, document, step, step_of},
};

const SOCKET: &str = "/run/tunneld/control.sock";
/// What the disk's two parts are called, by the emulator.
const PARTS: [&str; 2] = ["power-files", "power-records"];
/// Seconds of a trial that is confirmed, and of one that lapses.
const TRIALS: [u32; 2] = [600, 5];

/// The device with that serial number.
fn device(serial: &str) -> String {
    let named = |name: &String| fs::read_to_string(format!("/sys/block/{name}/serial")).is_ok_and(|own| own == serial);
    let disks = fs::read_dir("/sys/block").unwrap();
    let mut names = disks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.find(named).expect("a disk for it: tests/vm/run --power FOLDER");
    format!("/dev/{name}")
}

/// The acknowledgements' part of the disk.
struct Records {
    device: fs::File,
    written: u64,
}

impl Records {
    /// Writes the next one; when this returns, the disk has it in its cache.
    fn write(&mut self, acknowledged: &Acknowledged) {
        // Aligned as the disk wants it.
        let mut room = vec![b' '; RECORD + 4096];
        let start = room.as_ptr().align_offset(4096);
        let record = &mut room[start..start + RECORD];
        serde_json::to_writer(&mut record[..], acknowledged).unwrap();
        self.device.seek(SeekFrom::Start(self.written * RECORD as u64)).unwrap();
        self.device.write_all(record).unwrap();
        self.written += 1;
    }
}

/// The appliance under test, with what its answers said so far.
struct Work {
    appliance: Appliance,
    known: Acknowledged,
}

impl Work {
    fn ask<T: Send>(&self, question: impl AsyncFnOnce(Client) -> T + Send) -> T {
        self.appliance.namespace.block_on(|| question(Client::new(SOCKET)))
    }

    fn start(&self) {
        self.appliance.start_with(executable(), "--log info");
    }

    fn apply(&self, number: u64, confirm: Option<u32>) {
        let submission = Submission {
            document: document(number),
            comment: format!("step {number}"),
            confirm,
            ..Submission::default()
        };
        self.ask(async |client| client.apply(&submission).await).unwrap();
    }

    fn carry_out(&mut self, number: u64) {
        match step(number) {
            Step::Apply => self.apply(number, None),
            Step::Try => self.apply(number, Some(TRIALS[0])),
            Step::TryShortly => self.apply(number, Some(TRIALS[1])),
            Step::Confirm => drop(self.ask(async |client| client.confirm().await).unwrap()),
            Step::Lapse => self.appliance.namespace.until("the trial ends", || {
                self.ask(async |client| client.status().await).unwrap().trial.is_none()
            }),
            Step::Rollback => drop(
                self.ask(async |client| client.rollback(&Rollback::default()).await)
                    .unwrap(),
            ),
            Step::Restart => {
                self.appliance.end("-TERM");
                let clock = self.appliance.namespace.run(["cat", "/run/state/clock"]);
                self.known.clock = clock.split(' ').next().unwrap().parse().unwrap();
                self.start();
            }
        }
    }

    /// What the daemon says after so many steps.
    fn look(&mut self, steps: u64) -> &Acknowledged {
        let (status, live, history) = self.ask(async |client| {
            let live = client.show(None).await.unwrap();
            (
                client.status().await.unwrap(),
                live,
                client.history(1_000).await.unwrap(),
            )
        });
        let keys: BTreeMap<_, _> = status
            .tunnels
            .iter()
            .map(|tunnel| (tunnel.name.to_string(), tunnel.public_key.unwrap().to_string()))
            .collect();
        let export = self.appliance.namespace.run(["cat", "/run/state/export.json"]);
        let export: serde_json::Value = serde_json::from_str(&export).unwrap();
        let known = &mut self.known;
        known.steps = steps;
        known.revision = live.revision.number;
        known.document = step_of(&live.document).unwrap();
        known.fallback = status.trial.map(|trial| trial.fallback.unwrap());
        known.keys.extend(keys);
        known.history = history.len() as u64;
        known.last = known.last.max(known.revision);
        known.ledger = serde_json::from_value(export["contents"]["ledger"].clone()).unwrap();
        known
    }
}

#[test]
fn work_that_is_recorded() {
    let [files, records] = PARTS.map(device);
    let appliance = Appliance::idle();
    appliance.namespace.run(["mkdir", "/run/state"]);
    appliance.namespace.run(["mount", "-t", "ext4", &files, "/run/state"]);
    let device = fs::File::options().write(true).custom_flags(O_DIRECT).open(records);
    let mut records = Records {
        device: device.unwrap(),
        written: 0,
    };
    let mut work = Work {
        appliance,
        known: Acknowledged::default(),
    };
    work.start();
    records.write(&work.known);
    for number in 0..STEPS {
        work.carry_out(number);
        let acknowledged = work.look(number + 1);
        let trial = matches!(step(number), Step::Try | Step::TryShortly);
        assert_eq!(acknowledged.fallback.is_some(), trial, "{acknowledged:?}");
        records.write(acknowledged);
    }
    work.appliance.end("-TERM");
}
