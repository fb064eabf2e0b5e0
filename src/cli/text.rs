//! Words for times, sizes, findings and failures.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::style::Style;
use crate::model::{
    service::Failure,
    status::{Author, Finding, PlanReport, TrialStatus},
};

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// How long ago `then` was, in at most two units: `2 min 5 s ago`, as `wg` would say it.
pub(super) fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then);
    if seconds == 0 {
        "now".into()
    } else {
        format!("{} ago", span(seconds))
    }
}

/// A time span in at most two units.
pub(super) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut words = Vec::new();
    for (size, name) in UNITS {
        if left >= size && words.len() < 2 {
            words.push(format!("{} {name}", left / size));
            left %= size;
        } else if !words.is_empty() {
            break;
        }
    }
    if words.is_empty() {
        "0 s".into()
    } else {
        words.join(" ")
    }
}

/// What follows "revision N is in force" while it is on trial.
pub(super) fn trial(trial: &TrialStatus, style: Style) -> String {
    let back = match trial.fallback {
        Some(number) => format!("revision {number} comes back"),
        None => "it goes".to_owned(),
    };
    // Half a second counts as one: "in 0 s" would be over.
    let left = span(trial.seconds.ceil() as u64);
    let unless = match trial.probes.as_slice() {
        [] => "unless: tunneld confirm",
        _ => "unless the probes answer, or: tunneld confirm",
    };
    style.warn(&format!("; {back} in {left} {unless}"))
}

/// A number of bytes with a binary prefix, as `wg` prints it.
pub(super) fn bytes(count: u64) -> String {
    const PREFIXES: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for prefix in PREFIXES {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = prefix;
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// A moment as RFC 3339 in UTC, to the second.
pub(super) fn moment(seconds: u64) -> String {
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    // Howard Hinnant's civil_from_days, for days since 1970-01-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A span given in seconds with a fraction, such as `13 ms`.
pub(super) fn duration(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds).unwrap_or_default() {
        short if short < Duration::from_secs(1) => format!("{} ms", short.as_millis()),
        long => format!("{:.1} s", long.as_secs_f64()),
    }
}

/// Who it was.
pub(super) fn author(author: &Author) -> String {
    author
        .user
        .as_deref()
        .map_or_else(|| format!("uid {}", author.uid), plain)
}

/// Text that somebody wrote, as one line that cannot command a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A plan for people: the operations, then what waits, what is in the way and what to know.
pub(super) fn plan(report: &PlanReport, style: Style) -> String {
    let mut out = String::new();
    for line in &report.lines {
        let painted = match line.chars().next() {
            Some('+') => style.good(line),
            Some('-') => style.bad(line),
            Some('~') => style.warn(line),
            _ => line.clone(),
        };
        out.push_str(&painted);
        out.push('\n');
    }
    if report.lines.is_empty() {
        out.push_str("nothing to change\n");
    }
    // What this machine lacks is said once, as that.
    let mut waiting = report.waiting.clone();
    waiting.retain(|finding| !report.machine.contains(finding));
    findings(&mut out, &style.dim("waiting"), &waiting);
    findings(&mut out, &style.bad("in the way"), &report.conflicts);
    findings(&mut out, &style.bad("this machine"), &report.machine);
    findings(&mut out, &style.warn("key"), &report.keys);
    findings(&mut out, &style.bad("cut off"), &report.cut);
    findings(&mut out, &style.warn("warning"), &report.warnings);
    out
}

/// One line per finding, each with its heading, so that `grep` works.
pub(super) fn findings(out: &mut String, heading: &str, findings: &[Finding]) {
    for Finding { object, reason } in findings {
        // Writing to a String cannot fail.
        let (object, reason) = (plain(object), plain(reason));
        let _ = match object.as_str() {
            "" => writeln!(out, "{heading}: {reason}"),
            _ => writeln!(out, "{heading}: {object}: {reason}"),
        };
    }
}

/// Prints a failure and its findings to standard error.
pub(super) fn complain(failure: &Failure) {
    let style = Style::stderr();
    let mut out = String::new();
    for Finding { object, reason } in &failure.findings {
        let _ = writeln!(out, "{}: {}", style.bold(&plain(object)), plain(reason));
    }
    if !failure.message.is_empty() {
        let _ = writeln!(out, "{}: {}", style.bad("tunneld"), plain(&failure.message));
    }
    // Nobody is left to tell when standard error fails.
    std::io::stderr().lock().write_all(out.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        assert_eq!(span(0), "0 s");
        assert_eq!(span(125), "2 min 5 s");
        assert_eq!(span(3_600), "1 h");
        assert_eq!(span(90_061), "1 d 1 h");
        assert_eq!(ago(5, 5), "now");
        assert_eq!(
            ago(10, 5),
            "now",
            "a clock that jumped back is no reason to count wrong"
        );
    }

    #[test]
    fn moments_are_calendar_dates() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(moment(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(moment(1_795_392_000), "2026-11-23T00:00:00Z");
    }

    #[test]
    fn text_from_outside_does_not_command_the_terminal() {
        assert_eq!(plain("evil\n\u{1b}[31mred\0"), "evil\u{fffd}\u{fffd}[31mred\u{fffd}");
    }

    #[test]
    fn sizes_have_binary_prefixes() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
    }

    #[test]
    fn a_plan_reads_like_a_diff() {
        let report = PlanReport {
            lines: vec!["+ link wg0".into()],
            waiting: vec![Finding {
                object: "route 10.0.0.0/8".into(),
                reason: "link eth1 is not there".into(),
            }],
            ..PlanReport::default()
        };
        assert_eq!(
            plan(&report, Style::PLAIN),
            "+ link wg0\nwaiting: route 10.0.0.0/8: link eth1 is not there\n"
        );
    }
}
