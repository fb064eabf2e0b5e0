//! Disks as a power cut leaves them: all that was flushed, and of what was written since, whatever the disk had come to.

use std::str::FromStr;

use crate::log::Entry;

/// What of a write a disk may lose.
const SECTOR: usize = 512;

/// A power cut: after how many entries of the log, and what becomes of the writes since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cut {
    pub(crate) entries: usize,
    /// All of them are there; or, with a seed, some, some of these torn.
    pub(crate) seed: Option<u64>,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seed {
            Some(seed) => write!(f, "{}:{seed}", self.entries),
            None => write!(f, "{}", self.entries),
        }
    }
}

impl FromStr for Cut {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (entries, seed) = text.split_once(':').unzip();
        Ok(Self {
            entries: entries.unwrap_or(text).parse()?,
            seed: seed.map(str::parse).transpose()?,
        })
    }
}

/// Numbers that look like chance and follow from a seed (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A disk that goes through its log.
pub(crate) struct Disk<'a> {
    log: &'a [Entry],
    /// What is durable.
    flushed: Vec<u8>,
    /// How much of the log was gone through, and how much of it before the last flush.
    at: usize,
    since: usize,
}

impl<'a> Disk<'a> {
    pub(crate) fn new(before: Vec<u8>, log: &'a [Entry]) -> Self {
        Self {
            log,
            flushed: before,
            at: 0,
            since: 0,
        }
    }

    /// The disk after a cut, which is not before the last one that was asked for.
    pub(crate) fn after(&mut self, cut: Cut) -> Vec<u8> {
        for (at, entry) in self.log.iter().enumerate().take(cut.entries).skip(self.at) {
            match entry {
                Entry::Flush => {
                    for written in &self.log[self.since..at] {
                        put(&mut self.flushed, written, |_| true);
                    }
                    self.since = at + 1;
                }
                Entry::Write { durable: true, .. } => put(&mut self.flushed, entry, |_| true),
                Entry::Write { .. } => {}
            }
        }
        self.at = cut.entries;
        let mut disk = self.flushed.clone();
        let Some(seed) = cut.seed else {
            for written in &self.log[self.since..self.at] {
                put(&mut disk, written, |_| true);
            }
            return disk;
        };
        let mut chance = Chance(seed);
        let quarters = chance.below(4);
        for written in &self.log[self.since..self.at] {
            let torn = chance.below(8) == 0;
            let there = chance.below(4) < quarters;
            put(&mut disk, written, |_| if torn { chance.below(2) == 0 } else { there });
        }
        disk
    }
}

/// Puts the sectors of a write for which `there` says so.
fn put(disk: &mut [u8], entry: &Entry, mut there: impl FnMut(usize) -> bool) {
    let Entry::Write { at, data, .. } = entry else { return };
    for (index, sector) in data.chunks(SECTOR).enumerate() {
        let at = *at as usize + index * SECTOR;
        // Behind the file system is what no power cut is about.
        if let Some(place) = disk.get_mut(at..at + sector.len()).filter(|_| there(index)) {
            place.copy_from_slice(sector);
        }
    }
}

#[test]
fn what_was_flushed_is_there_and_the_rest_may_be() {
    let write = |at: u64, byte: u8| Entry::Write {
        at: at * 512,
        data: vec![byte; 512],
        durable: false,
    };
    let log = [write(0, 1), Entry::Flush, write(0, 2), write(1, 3)];
    let after = |cut: &str| {
        let disk = Disk::new(vec![0; 1024], &log).after(cut.parse().unwrap());
        [disk[0], disk[512]]
    };
    assert_eq!((after("0"), after("1"), after("4")), ([0, 0], [1, 0], [2, 3]));
    let mut seen: Vec<_> = (0..99).map(|seed| after(&format!("4:{seed}"))).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [[1, 0], [1, 3], [2, 0], [2, 3]]);
    assert!((0..99).all(|seed| after(&format!("2:{seed}")) == [1, 0]));
}
