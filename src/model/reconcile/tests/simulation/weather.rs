//! What goes wrong at the moment, and how often in a thousand times.

use super::dice::Dice;
use crate::model::ports::ErrorClass;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Disks {
    #[default]
    Sound,
    /// Half of the writes fail, and half of those are there all the same.
    Failing,
    Full,
}

#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// Operations are refused, with this class.
    pub(super) refused: usize,
    pub(super) class: ErrorClass,
    /// Operations are carried out, and nobody hears of it.
    pub(super) unheard: usize,
    /// Readings fail.
    pub(super) blind: usize,
    /// Steps take seconds.
    pub(super) stuck: usize,
    /// Questions for names fail, or take long.
    pub(super) dns: usize,
    /// Key files cannot be read.
    pub(super) keys: usize,
    /// Announcements are lost, and that is announced.
    pub(super) overrun: usize,
    pub(super) disks: Disks,
}

impl Weather {
    pub(super) fn calm() -> Self {
        Self {
            refused: 0,
            class: ErrorClass::Refused,
            unheard: 0,
            blind: 0,
            stuck: 0,
            dns: 0,
            keys: 0,
            overrun: 0,
            disks: Disks::Sound,
        }
    }

    /// A few things go wrong, each seldom, often or always.
    pub(super) fn storm(dice: &mut Dice) -> Self {
        let mut often = || {
            if dice.chance(700) {
                0
            } else {
                *dice.pick(&[5, 50, 300, 1000])
            }
        };
        let (refused, unheard, blind, dns, keys) = (often(), often(), often(), often(), often());
        Self {
            refused,
            class: *dice.pick(&[
                ErrorClass::Changed,
                ErrorClass::Transient,
                ErrorClass::Permission,
                ErrorClass::Unsupported,
                ErrorClass::Refused,
            ]),
            unheard,
            blind,
            stuck: *dice.pick(&[0, 0, 1, 5, 20]),
            dns,
            keys,
            overrun: *dice.pick(&[0, 100, 500]),
            disks: *dice.pick(&[Disks::Sound, Disks::Sound, Disks::Sound, Disks::Failing, Disks::Full]),
        }
    }
}
