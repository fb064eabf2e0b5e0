//! `tunneld apply`: make the kernel equal a document.

use std::path::PathBuf;

use clap::Args;

use super::{Daemon, check, print, print_json, progress, session, style::Style, text};
use crate::model::{
    probe::Probe,
    service::{CONFIRM, Failure, Submission},
    status::ApplyReport,
};

/// Apply a document: afterwards the kernel equals it, or the old state is back
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tunneld apply site.toml\n  tunneld apply -m 'move branch 7 to the new hub' site.toml\n  \
tunneld apply --confirm 5m site.toml && tunneld confirm   # reverts by itself if you are locked out\n  \
tunneld apply --confirm 5m --probe icmp:192.0.2.1 --probe session site.toml"
)]
pub(super) struct Arguments {
    /// The document, TOML or JSON; - reads standard input
    file: PathBuf,
    /// Why, for the history
    #[arg(long, short = 'm', default_value = "")]
    comment: String,
    /// Go back by itself unless 'tunneld confirm' comes within this time, such as 90s, 5m or 1h30m
    #[arg(long, value_name = "TIME", value_parser = time_to_confirm)]
    confirm: Option<u32>,
    /// Confirm it once this answers, three times in a row: icmp:ADDRESS, tcp:ADDRESS:PORT, http://ADDRESS/PATH,
    /// scraped (another machine reads the metrics), or session (your SSH session acknowledges what it is sent);
    /// may be repeated
    #[arg(long = "probe", value_name = "PROBE", requires = "confirm")]
    probes: Vec<Probe>,
    /// Apply it although it may cut off your session, who reads the metrics, or a management network; goes back by
    /// itself after 5 minutes if --confirm names no time
    #[arg(long)]
    may_cut: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, daemon: &Daemon) -> Result<(), Failure> {
    let submission = Submission {
        document: check::read(&arguments.file)?,
        comment: arguments.comment.clone(),
        confirm: arguments.confirm,
        probes: arguments.probes.clone(),
        session: session::find(),
        may_cut: arguments.may_cut,
        brief: !arguments.json,
    };
    let report = daemon
        .ask(async |client| progress::watched(client, arguments.json, client.apply(&submission)).await)
        .map_err(|failure| check::located(failure, &arguments.file))?;
    show(&report, arguments.json)?;
    let dropped = !arguments.comment.is_empty() && report.revision.comment != arguments.comment;
    if dropped && !arguments.json {
        let number = report.revision.number;
        print(&format!(
            "revision {number} had this very document before, and keeps its own comment\n"
        ))?;
    }
    Ok(())
}

/// Prints what an apply or a rollback did.
pub(super) fn show(report: &ApplyReport, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(report);
    }
    let style = Style::stdout();
    let took = text::duration(report.seconds);
    let revision = style.bold(&format!("revision {}", report.revision.number));
    print(&format!(
        "{}{revision} is in force ({took}){}\n",
        text::plan(&report.plan, style),
        report
            .trial
            .as_ref()
            .map_or_else(String::new, |trial| text::trial(trial, style)),
    ))
}

/// Seconds within [`CONFIRM`], written as people write times.
pub(super) fn time_to_confirm(text: &str) -> Result<u32, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write 90s, 5m or 1h30m"))?;
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let range = format!("it has to be {} s to {} h", CONFIRM.start(), CONFIRM.end() / 3_600);
    CONFIRM.contains(&seconds).then_some(seconds).ok_or(range)
}
