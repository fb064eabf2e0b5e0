//! The two text formats: OpenMetrics 1.0 and the older 0.0.4 of Prometheus.

use std::fmt::Write as _;

/// The content type of OpenMetrics 1.0.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older text format, which `promtool check metrics` reads.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Whether a scraper that sends this `Accept` header wants OpenMetrics; anything else gets the text format.
pub fn wants_openmetrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|part| {
            let mut words = part.split(';').map(str::trim);
            let refused = part.replace(' ', "").contains(";q=0;") || part.replace(' ', "").ends_with(";q=0");
            words.next() == Some("application/openmetrics-text") && !refused
        })
    })
}

/// Turns OpenMetrics text into the older format: a counter's HELP and TYPE carry `_total` there, and
/// there is no end mark.
pub(super) fn as_text(openmetrics: &str) -> String {
    let counters: std::collections::BTreeSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    for line in openmetrics
        .lines()
        .filter(|line| *line != "# EOF" && !line.starts_with("# UNIT "))
    {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|mark| {
            let (name, rest) = line.strip_prefix(mark)?.split_once(' ')?;
            counters.contains(name).then_some((mark, name, rest))
        });
        // Writing to a String cannot fail.
        let _ = match described {
            Some((mark, name, rest)) => writeln!(text, "{mark}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}
