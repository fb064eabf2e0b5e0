//! Questions as pictures: bars in groups, as SVG. No plotting crate that draws bars in groups has a release
//! within two years, and this is all that is needed.

use std::fmt::Write;

use crate::question::{Cell, Question, Row, Statistic, digits};

const WIDTH: f64 = 860.0;
/// Where bars begin.
const LEFT: f64 = 260.0;
/// Where the longest bar ends.
const RIGHT: f64 = 660.0;
const BAR: f64 = 18.0;
const GAP: f64 = 14.0;
const HEAD: f64 = 48.0;

/// Told apart also by those who see no red or no green (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999",
];

/// A question as a picture: a group of bars per row, a bar per contender with its median, and a thin line to
/// the 99th percentile where there is one.
pub(crate) fn svg(question: &Question) -> String {
    let bars: usize = question.rows.iter().map(|row| row.cells.len()).sum();
    let height = HEAD + bars as f64 * BAR + question.rows.len() as f64 * (BAR + GAP) + GAP;
    let longest = question
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .map(reach)
        .fold(0.0, f64::max);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    label(&mut text, (GAP, 28.0), "start", "font-size=\"17\"", &question.title);
    let mut contenders: Vec<&str> = Vec::new();
    let mut y = HEAD;
    for row in &question.rows {
        label(
            &mut text,
            (GAP, y + BAR * 0.75),
            "start",
            "font-weight=\"bold\"",
            &row.name,
        );
        y += BAR;
        for cell in &row.cells {
            if !contenders.contains(&cell.contender) {
                contenders.push(cell.contender);
            }
            let colour = contenders.iter().position(|name| *name == cell.contender).unwrap_or(0);
            bar(
                &mut text,
                question,
                row,
                cell,
                (y, longest, COLOURS[colour % COLOURS.len()]),
            );
            y += BAR;
        }
        y += GAP;
    }
    text.push_str("</svg>\n");
    text
}

/// How far a cell's drawing goes, in its unit.
fn reach(cell: &Cell) -> f64 {
    let median = cell.statistic(Statistic::Median);
    if cell.has_tail() {
        median.max(cell.statistic(Statistic::P99))
    } else {
        median
    }
}

fn bar(text: &mut String, question: &Question, row: &Row, cell: &Cell, (y, longest, colour): (f64, f64, &str)) {
    let along = |value: f64| LEFT + (RIGHT - LEFT) * value / longest;
    let middle = y + BAR / 2.0;
    let (median, end) = (cell.statistic(Statistic::Median), reach(cell));
    label(text, (LEFT - 8.0, y + BAR * 0.75), "end", "", cell.contender);
    let (width, thick) = (along(median) - LEFT, BAR - 3.0);
    let _ = writeln!(
        text,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{thick:.1}\" fill=\"{colour}\"/>"
    );
    let mut words = question.unit.words(median);
    if cell.has_tail() {
        let (from, to) = (along(median), along(end));
        let _ = writeln!(
            text,
            "<path d=\"M{from:.1} {middle:.1}H{to:.1}M{to:.1} {y:.1}v{thick:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        words.push_str(&format!(
            ", p99 {}",
            question.unit.words(cell.statistic(Statistic::P99))
        ));
    }
    match row.ratio(cell, question.peer) {
        Some(ratio) if cell.contender != question.peer => words.push_str(&format!(" ({}×)", digits(ratio))),
        _ => {}
    }
    label(
        text,
        (along(end) + 6.0, y + BAR * 0.75),
        "start",
        "fill=\"#444\"",
        &words,
    );
}

fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>"
    );
}
