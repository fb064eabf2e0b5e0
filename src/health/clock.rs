//! A floor under the system's clock: boards without a battery start in the past, and WireGuard's peers refuse
//! a handshake whose time (TAI64N) is not after the last one they saw.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustix::{
    io::Errno,
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};

use crate::model::types::Deadline;

/// How often the time should be stored: a power cut loses at most this, and flash is spared.
pub const STORE_INTERVAL: Duration = Duration::from_secs(600);

/// 2026-01-01 00:00:00 UTC in seconds since the epoch: no right clock shows a time before this program was
/// written.
const EARLIEST: u64 = 1_767_225_600;

/// The time before which no right clock can be, whatever was stored.
pub fn earliest() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EARLIEST)
}

/// What to set the clock to, if it is behind: the later of the last time stored plus [`STORE_INTERVAL`], for
/// it may have run that long after it was stored, and [`earliest`]. A clock that is not behind the stored
/// time itself is left alone.
///
/// A stored time is only as right as the clock was; one that is far ahead (a battery that failed the other
/// way) is why nothing here ever sets the clock back: time synchronisation does that, and what it sets while
/// the service runs becomes the time stored.
pub fn floor(stored: Option<SystemTime>, now: SystemTime) -> Option<SystemTime> {
    let stored = stored.filter(|stored| *stored >= earliest());
    match stored {
        Some(stored) if now < stored => stored.checked_add(STORE_INTERVAL),
        None if now < earliest() => Some(earliest()),
        _ => None,
    }
}

/// This moment of this boot.
pub fn moment() -> Deadline {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let milliseconds = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default();
    Deadline {
        boot: boot(),
        milliseconds: seconds * 1_000 + milliseconds,
    }
}

/// This boot's name (`random(4)`).
pub fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// The clock was behind and could not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot set the clock, which is {} s behind the last time it showed: {errno}; \
     set it (date -s, or systemctl restart tunneld-clock), or peers may refuse handshakes",
    behind.as_secs()
)]
pub struct ClockError {
    /// How far it is behind.
    pub behind: Duration,
    /// The kernel's answer.
    pub errno: Errno,
}

/// Lifts the system's clock to the floor that a stored time makes, in seconds since 1970 and with the boot whose clock
/// showed it; the result says by how much. A clock that went back since this boot was set by somebody.
///
/// # Errors
/// As [`lift`].
pub fn lift_system(stored: Option<(u64, String)>) -> Result<Option<Duration>, ClockError> {
    if stored.as_ref().is_some_and(|(_, of)| *of == boot()) {
        return Ok(None);
    }
    let stored = stored.and_then(|(seconds, _)| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    lift(stored, SystemTime::now(), set_system_clock)
}

/// Lifts the clock to its floor before the first tunnel starts; the result says by how much it was lifted.
/// `set` is [`set_system_clock`], or a stand-in: a namespace does not have a clock of its own.
///
/// # Errors
/// When the clock is behind and cannot be set: a warning for the operator, no reason not to start.
pub fn lift(
    stored: Option<SystemTime>,
    now: SystemTime,
    set: impl FnOnce(SystemTime) -> Result<(), Errno>,
) -> Result<Option<Duration>, ClockError> {
    let Some(floor) = floor(stored, now) else {
        return Ok(None);
    };
    let behind = floor.duration_since(now).unwrap_or_default();
    match set(floor) {
        Ok(()) => Ok(Some(behind)),
        Err(errno) => Err(ClockError { behind, errno }),
    }
}

/// Sets `CLOCK_REALTIME` (`clock_settime(2)`); needs `CAP_SYS_TIME`.
///
/// # Errors
/// The kernel's.
pub fn set_system_clock(time: SystemTime) -> Result<(), Errno> {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| Errno::INVAL)?;
    let timespec = Timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).map_err(|_| Errno::INVAL)?,
        tv_nsec: since_epoch.subsec_nanos().into(),
    };
    clock_settime(ClockId::Realtime, timespec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const NOW: u64 = EARLIEST + 1_000_000;

    #[test]
    fn a_clock_that_went_back_is_lifted_past_what_it_showed() {
        let interval = STORE_INTERVAL.as_secs();
        assert_eq!(floor(Some(at(NOW)), at(0)), Some(at(NOW + interval)));
        assert_eq!(floor(Some(at(NOW)), at(NOW - 1)), Some(at(NOW + interval)));
    }

    #[test]
    fn a_clock_that_is_ahead_is_left_alone() {
        for now in [NOW, NOW + 1, NOW + 100_000_000] {
            assert_eq!(floor(Some(at(NOW)), at(now)), None);
            assert_eq!(floor(None, at(now)), None);
        }
    }

    #[test]
    fn without_a_stored_time_the_build_is_the_floor() {
        assert_eq!(floor(None, at(0)), Some(earliest()));
        assert_eq!(floor(Some(at(5)), at(10)), Some(earliest()));
        assert_eq!(floor(Some(at(5)), at(NOW)), None);
        assert_eq!(floor(Some(at(EARLIEST)), at(0)), Some(at(EARLIEST) + STORE_INTERVAL));
    }

    #[test]
    fn the_clock_is_set_once_and_only_if_it_is_behind() {
        let mut set_to = None;
        let mut lift_to = |stored, now| {
            lift(Some(at(stored)), at(now), |time| {
                set_to = Some(time);
                Ok(())
            })
        };
        assert_eq!(lift_to(NOW, NOW + 5), Ok(None));
        let lifted = lift_to(NOW, NOW - 60);
        assert_eq!(lifted, Ok(Some(STORE_INTERVAL + Duration::from_secs(60))));
        assert_eq!(set_to, Some(at(NOW) + STORE_INTERVAL));
    }

    #[test]
    fn a_clock_that_cannot_be_set_is_a_warning_that_says_what_to_do() {
        let error = lift(Some(at(NOW)), at(NOW - 60), |_| Err(Errno::PERM)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("660 s behind") && text.contains("tunneld-clock"),
            "{text}"
        );
        let failed = lift(Some(at(NOW)), at(NOW), |_| Err(Errno::PERM));
        assert_eq!(failed, Ok(None), "nobody asks a clock that is right");
    }

    #[test]
    fn a_time_before_1970_never_reaches_the_kernel() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(set_system_clock(before), Err(Errno::INVAL));
    }
}
