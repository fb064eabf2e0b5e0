//! Chance that can be repeated.

use std::time::Duration;

/// A stream of numbers that its seed determines: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }

    /// True so often in a thousand times.
    pub(super) fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One of a few things by number, or nothing if there are none.
    pub(super) fn one<T>(&mut self, of: impl IntoIterator<Item = T>) -> Option<T> {
        let mut all: Vec<T> = of.into_iter().collect();
        if all.is_empty() {
            return None;
        }
        let index = self.below(all.len());
        Some(all.swap_remove(index))
    }

    /// A time between two, short ones as likely as long ones.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (least.as_micros().max(1), most.as_micros().max(1));
        let (low, high) = (least.ilog2(), most.ilog2());
        let octave = low + u32::try_from(self.below((high - low + 1) as usize)).unwrap();
        let within = u128::from(self.roll()) % (1 << octave);
        let micros = ((1 << octave) + within).clamp(least, most);
        Duration::from_micros(u64::try_from(micros).unwrap())
    }
}
