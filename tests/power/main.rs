//! Power cuts: the log of every write that an emulated appliance made to its disk, cut at many places. From each cut a
//! disk is made as it may be found, its journal replayed by e2fsck(8), and the store on it opened by the real code.
//! `tests/soak power` records the log and runs this.

#[cfg(test)]
mod cut;
#[cfg(test)]
mod log;
#[cfg(test)]
mod verdict;
#[cfg(test)]
#[expect(dead_code, reason = "the guest uses the rest")]
mod workload;

#[cfg(test)]
mod cuts {
    use std::{
        collections::BTreeMap,
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    use crate::{
        cut::{Chance, Cut, Disk},
        log::{Entry, parse},
        verdict::{Verdict, judge},
        workload::{Acknowledged, FILE_SYSTEM, STEPS},
    };

    /// What a run is told by its environment.
    fn told<T: std::str::FromStr>(name: &str) -> Option<T> {
        std::env::var(name).ok()?.parse().ok()
    }

    /// What was acknowledged, with how many entries of the log there were when it was.
    fn acknowledged(log: &[Entry]) -> Vec<(usize, Acknowledged)> {
        let behind = |(index, entry): (usize, &Entry)| match entry {
            Entry::Write { at, data, .. } if *at >= FILE_SYSTEM => {
                Some((index + 1, serde_json::from_slice(data).unwrap()))
            }
            _ => None,
        };
        log.iter().enumerate().filter_map(behind).collect()
    }

    /// Where to cut: a quarter at flushes, a quarter between them, the rest there too, with writes lost and torn.
    fn choose(log: &[Entry], count: usize, seed: u64) -> Vec<Cut> {
        let flushes: Vec<usize> = (1..=log.len()).filter(|end| log[end - 1] == Entry::Flush).collect();
        let mut chance = Chance(seed);
        let mut choose = |index: usize| match index % 4 {
            0 => Cut {
                entries: flushes[chance.below(flushes.len() as u64) as usize],
                seed: None,
            },
            1 => Cut {
                entries: chance.below(log.len() as u64 + 1) as usize,
                seed: None,
            },
            _ => Cut {
                entries: chance.below(log.len() as u64 + 1) as usize,
                seed: Some(chance.below(1 << 32)),
            },
        };
        let mut cuts: Vec<Cut> = (0..count).map(&mut choose).collect();
        cuts.sort();
        cuts.dedup();
        cuts
    }

    /// Replays the journal and takes the files out, as they are after the boot that follows; e2fsck's preening mends
    /// only what an ordinary power cut leaves, and fails on more.
    fn files(disk: &Path, folder: &Path) -> Result<(), String> {
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            (output.status.code(), said.into_owned())
        };
        let (code, said) = run(Command::new("e2fsck").args(["-f", "-p"]).arg(disk));
        if !matches!(code, Some(0 | 1)) {
            return Err(format!("e2fsck: {said}"));
        }
        fs::create_dir(folder).unwrap();
        let request = format!("rdump / {}", folder.display());
        let (code, said) = run(Command::new("debugfs").args(["-R", &request]).arg(disk));
        if code == Some(0) && said.lines().count() <= 1 {
            Ok(())
        } else {
            Err(format!("debugfs: {said}"))
        }
    }

    /// What is found on such a disk.
    fn find(disk: &[u8], [before, after]: [&Acknowledged; 2]) -> Verdict {
        let scratch = tempfile::tempdir().unwrap();
        let (image, folder) = (scratch.path().join("image"), scratch.path().join("state"));
        fs::write(&image, disk).unwrap();
        files(&image, &folder)?;
        judge(&folder, before, after)
    }

    #[test]
    fn no_power_cut_loses_what_was_acknowledged() {
        let folder: PathBuf = told("POWER").expect("POWER names the folder that tests/vm/run --power filled");
        let log = parse(&fs::read(folder.join("writes.log")).unwrap());
        let before = fs::read(folder.join("before.img")).unwrap();
        assert_eq!(before.len() as u64, FILE_SYSTEM);
        let mut disk = Disk::new(before, &log);
        let acknowledged = acknowledged(&log);
        assert_eq!(acknowledged.len() as u64, STEPS + 1, "the work was done");
        let cuts = match told::<Cut>("CUT") {
            Some(cut) => vec![cut],
            None => choose(&log, told("CUTS").unwrap_or(400), told("SEED").unwrap_or(1)),
        };
        let nothing = Acknowledged::default();
        let (mut found, mut failed) = (BTreeMap::new(), 0);
        for cut in &cuts {
            let split = acknowledged.partition_point(|(entries, _)| *entries <= cut.entries);
            let before = split.checked_sub(1).map_or(&nothing, |last| &acknowledged[last].1);
            let after = acknowledged.get(split).map_or(before, |(_, next)| next);
            match find(&disk.after(*cut), [before, after]) {
                Ok(opened) => *found.entry(opened.to_string()).or_insert(0) += 1,
                Err(wrong) => {
                    failed += 1;
                    println!(
                        "after step {}: {wrong}\n  again: CUT={cut} tests/soak power-again",
                        before.steps
                    );
                }
            }
        }
        println!(
            "{} writes and flushes, {} of them acknowledgements; {} power cuts, {failed} failed; {found:?}",
            log.len(),
            acknowledged.len(),
            cuts.len()
        );
        assert_eq!(failed, 0, "power cuts that lost something");
    }
}
