//! The command line, and what becomes of the results.

use std::{fs, io::Write, path::Path, process::ExitCode, time::SystemTime};

use clap::Parser;
use serde_json::json;

use crate::{
    chart::svg,
    contest::Scale,
    host,
    parts::{PARTS, Part},
    question::Question,
    table::table,
};

/// Where results go.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");

/// Measure tunneld against others in the same run
#[derive(Parser)]
#[command(name = "tests/bench/run")]
struct Arguments {
    /// Print the results as JSON, and nothing else, to standard output
    #[arg(long)]
    json: bool,
    /// Sizes so small that only what is broken shows
    #[arg(long)]
    quick: bool,
    /// cargo bench hands this on
    #[arg(long, hide = true)]
    bench: bool,
    /// Which parts; all without
    parts: Vec<String>,
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let unknown = |name: &&String| !PARTS.iter().any(|part| part.name == name.as_str());
    if let Some(name) = arguments.parts.iter().find(unknown) {
        let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        eprintln!("tests/bench/run: no part '{name}'; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let scale = Scale { quick: arguments.quick };
    let chosen = |part: &&Part| arguments.parts.is_empty() || arguments.parts.iter().any(|name| name == part.name);
    let mut questions = Vec::new();
    for part in PARTS.iter().filter(chosen) {
        eprintln!("{}: {}", part.name, part.about);
        let answered = (part.run)(scale);
        for question in &answered {
            if !arguments.json {
                println!("\n{}", table(question));
            }
        }
        questions.extend(answered);
    }
    let missed = questions
        .iter()
        .flat_map(Question::verdicts)
        .any(|(_, rows)| !rows.is_empty());
    let text = report(&questions, scale);
    keep(&questions, &text);
    if arguments.json {
        std::io::stdout().write_all(text.as_bytes()).expect("standard output");
    }
    // The numbers of a glance prove nothing.
    ExitCode::from(u8::from(missed && !scale.quick))
}

fn report(questions: &[Question], scale: Scale) -> String {
    let report = json!({
        "time": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "quick": scale.quick,
        "machine": host::machine(),
        "versions": host::versions(),
        "questions": questions.iter().map(Question::json).collect::<Vec<_>>(),
    });
    format!("{}\n", serde_json::to_string_pretty(&report).expect("JSON"))
}

/// Writes the report and a picture per question; older pictures of other parts stay.
fn keep(questions: &[Question], report: &str) {
    let results = Path::new(RESULTS);
    fs::create_dir_all(results).expect("target/bench");
    fs::write(results.join("results.json"), report).expect("target/bench/results.json");
    for question in questions {
        let picture = results.join(format!("{}.svg", question.name));
        fs::write(picture, svg(question)).expect("target/bench");
    }
    eprintln!("results.json and pictures are in {RESULTS}");
}
