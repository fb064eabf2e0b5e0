//! `tunneld doctor`: what this box offers.

use std::{fmt::Write as _, path::Path, time::SystemTime};

use clap::Args;

use super::{print, print_json, runtime, style::Style};
use crate::{
    health::doctor::{Check, Facts, Verdict, checks},
    kernel::Kernel,
    model::{
        observed::{Observed, Scope},
        ports::Port,
        service::{Failure, FailureKind},
    },
};

/// Say what kernel, engine, permissions and neighbours offer on this box, and what to do about what is missing
///
/// Needs no daemon. Fails if something is missing without which no tunnel can work.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tunneld doctor\n  tunneld doctor --json | jq '.[] | select(.verdict != \"ok\")'")]
pub(super) struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut observed = Observed::default();
    let read = runtime()?.block_on(async { Kernel::connect()?.observe(&Scope::default(), &mut observed).await });
    let capabilities = read.map(|()| observed.capabilities).map_err(|error| error.to_string());
    let findings = checks(&capabilities, &Facts::gather(Path::new("/"), SystemTime::now()));
    if arguments.json {
        print_json(&findings)?;
    } else {
        print(&render(&findings, Style::stdout()))?;
    }
    if findings.iter().any(|check| check.verdict == Verdict::Fail) {
        return Err(Failure::new(
            FailureKind::Internal,
            "this box lacks what tunnels need; see above",
        ));
    }
    Ok(())
}

fn render(findings: &[Check], style: Style) -> String {
    let mut out = String::new();
    for check in findings {
        let mark = match check.verdict {
            Verdict::Ok => style.good("ok  "),
            Verdict::Warn => style.warn("warn"),
            Verdict::Fail => style.bad("fail"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{mark}  {:<18} {}", check.subject, check.finding);
        if let Some(next) = &check.next {
            let _ = writeln!(out, "      {:<18} {}", "", style.dim(&format!("next: {next}")));
        }
    }
    out
}
