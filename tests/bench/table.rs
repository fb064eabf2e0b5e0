//! Questions as text.

use crate::question::{Question, Statistic, digits};

/// A question as a table: a line per row, a column per contender with its median and how it compares.
pub(crate) fn table(question: &Question) -> String {
    let mut contenders: Vec<&str> = Vec::new();
    for cell in question.rows.iter().flat_map(|row| &row.cells) {
        if !contenders.contains(&cell.contender) {
            contenders.push(cell.contender);
        }
    }
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(contenders.iter().map(|name| (*name).to_owned()));
    for row in &question.rows {
        let mut line = vec![row.name.clone()];
        line.extend(contenders.iter().map(|name| {
            row.cell(name).map_or_else(String::new, |cell| {
                let median = question.unit.words(cell.statistic(Statistic::Median));
                let tail = match cell.has_tail() {
                    true => format!(", p99 {}", question.unit.words(cell.statistic(Statistic::P99))),
                    false => String::new(),
                };
                let ratio = row.ratio(cell, question.peer).filter(|_| *name != question.peer);
                let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({}×)", digits(ratio)));
                format!("{median}{tail}{ratio}")
            })
        }));
        lines.push(line);
    }
    let mut text = format!("{}\n", question.title);
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            format!("{cell:<width$}")
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(&format!("  {}\n", line.trim_end()));
    }
    for (aim, missed) in question.verdicts() {
        let verdict = match missed.as_slice() {
            [] => "met".to_owned(),
            rows => format!("missed: {}", rows.join(", ")),
        };
        text.push_str(&format!("  aim: {aim}: {verdict}\n"));
    }
    text
}
