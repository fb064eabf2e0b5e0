//! What a part measured: questions, each with rows, each with a cell per contender.

use serde_json::{Value, json};

/// One question, with the answers of all contenders in the same run.
pub(crate) struct Question {
    /// Part and subject, such as `routes-100000`: the name of its chart.
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    /// Of all samples.
    pub(crate) unit: Unit,
    /// The contender that ratios refer to.
    pub(crate) peer: &'static str,
    /// In the order of their first sample.
    pub(crate) rows: Vec<Row>,
    /// What should come out.
    pub(crate) aims: Vec<Aim>,
}

/// One case of a question.
pub(crate) struct Row {
    /// Such as `add`.
    pub(crate) name: String,
    /// In the order of their first sample.
    pub(crate) cells: Vec<Cell>,
}

/// What one contender made of one case.
pub(crate) struct Cell {
    /// Its name.
    pub(crate) contender: &'static str,
    /// One per round, or per trial.
    pub(crate) samples: Vec<f64>,
}

/// What samples count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    BitsPerSecond,
    /// CPU seconds for 10⁹ bytes of payload.
    SecondsPerGigabyte,
    Bytes,
    Times,
}

/// What should come out for a contender, in every row.
pub(crate) struct Aim {
    pub(crate) contender: &'static str,
    pub(crate) of: Statistic,
    pub(crate) limit: Limit,
}

/// A number that stands for many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistic {
    Median,
    /// 99 of 100 are not above it.
    P99,
}

/// A bound, included.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// At most this.
    Most(f64),
    /// At most so many times the peer's.
    MostOfPeer(f64),
    /// At least so many times the peer's.
    LeastOfPeer(f64),
}

impl Question {
    pub(crate) fn new(name: impl Into<String>, title: impl Into<String>, unit: Unit, peer: &'static str) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            unit,
            peer,
            rows: Vec::new(),
            aims: Vec::new(),
        }
    }

    /// With an aim for `contender`.
    pub(crate) fn aim(mut self, contender: &'static str, of: Statistic, limit: Limit) -> Self {
        self.aims.push(Aim { contender, of, limit });
        self
    }

    /// Adds a sample.
    pub(crate) fn record(&mut self, row: &str, contender: &'static str, sample: f64) {
        let at = self.rows.iter().position(|known| known.name == row).unwrap_or_else(|| {
            self.rows.push(Row {
                name: row.to_owned(),
                cells: Vec::new(),
            });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[at].cells;
        match cells.iter_mut().find(|cell| cell.contender == contender) {
            Some(cell) => cell.samples.push(sample),
            None => cells.push(Cell {
                contender,
                samples: vec![sample],
            }),
        }
    }

    /// The aims, in words, with the rows that miss them.
    pub(crate) fn verdicts(&self) -> Vec<(String, Vec<&str>)> {
        let verdict = |aim: &Aim| {
            let missing = self.rows.iter().filter(|row| !self.meets(row, aim));
            (self.words(aim), missing.map(|row| row.name.as_str()).collect())
        };
        self.aims.iter().map(verdict).collect()
    }

    fn words(&self, aim: &Aim) -> String {
        let of = match aim.of {
            Statistic::Median => "",
            Statistic::P99 => " p99",
        };
        let limit = match aim.limit {
            Limit::Most(most) => format!("at most {}", self.unit.words(most)),
            Limit::MostOfPeer(times) => format!("at most {times}× {}", self.peer),
            Limit::LeastOfPeer(times) => format!("at least {times}× {}", self.peer),
        };
        format!("{}{of} {limit}", aim.contender)
    }

    fn meets(&self, row: &Row, aim: &Aim) -> bool {
        let Some(cell) = row.cell(aim.contender) else {
            return false;
        };
        match aim.limit {
            Limit::Most(most) => cell.statistic(aim.of) <= most,
            Limit::MostOfPeer(most) => row.ratio(cell, self.peer).is_some_and(|ratio| ratio <= most),
            Limit::LeastOfPeer(least) => row.ratio(cell, self.peer).is_some_and(|ratio| ratio >= least),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = row.cells.iter().map(|cell| {
                json!({
                    "contender": cell.contender,
                    "median": cell.statistic(Statistic::Median),
                    "p99": cell.statistic(Statistic::P99),
                    "ratio": row.ratio(cell, self.peer),
                    "samples": cell.samples,
                })
            });
            json!({ "name": row.name, "contenders": cells.collect::<Vec<_>>() })
        });
        let aims = self.verdicts().into_iter();
        let aims = aims.map(|(words, missed)| json!({ "aim": words, "met": missed.is_empty(), "missed": missed }));
        json!({
            "name": self.name,
            "title": self.title,
            "unit": self.unit.name(),
            "peer": self.peer,
            "rows": rows.collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
        })
    }
}

impl Row {
    pub(crate) fn cell(&self, contender: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.contender == contender)
    }

    /// How `cell` compares with the peer. The two ran in turns, so each round has a ratio of its own, in which
    /// whatever slowed both down cancels out; this is their median.
    pub(crate) fn ratio(&self, cell: &Cell, peer: &str) -> Option<f64> {
        let pairs = cell.samples.iter().zip(&self.cell(peer)?.samples);
        let ratios: Vec<f64> = pairs.map(|(own, peer)| own / peer).collect();
        (!ratios.is_empty()).then(|| quantile(&ratios, 0.5))
    }
}

impl Cell {
    pub(crate) fn statistic(&self, which: Statistic) -> f64 {
        match which {
            Statistic::Median => quantile(&self.samples, 0.5),
            Statistic::P99 => quantile(&self.samples, 0.99),
        }
    }

    /// Whether there are enough samples for the slowest hundredth to mean something.
    pub(crate) fn has_tail(&self) -> bool {
        self.samples.len() >= 100
    }
}

/// The smallest sample that `part` of all do not exceed; of an even number's half the mean of the two in the
/// middle.
fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = part * sorted.len() as f64;
    let upper = sorted[(rank.ceil() as usize).clamp(1, sorted.len()) - 1];
    match sorted.get(rank as usize) {
        Some(next) if rank.fract() == 0.0 && part == 0.5 => (upper + next) / 2.0,
        _ => upper,
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::BitsPerSecond => "bit/s",
            Self::SecondsPerGigabyte => "s/GB",
            Self::Bytes => "B",
            Self::Times => "",
        }
    }

    /// A value as people write it.
    pub(crate) fn words(self, value: f64) -> String {
        let scaled = |steps: &[(f64, &str)]| {
            let fits = steps.iter().find(|(step, _)| value.abs() >= *step).or(steps.last());
            fits.map_or_else(String::new, |(step, name)| format!("{} {name}", digits(value / step)))
        };
        match self {
            Self::Seconds => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
            Self::BitsPerSecond => scaled(&[(1e9, "Gb/s"), (1e6, "Mb/s"), (1e3, "kb/s")]),
            Self::Bytes => scaled(&[(1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
            Self::SecondsPerGigabyte => format!("{} s/GB", digits(value)),
            Self::Times => digits(value),
        }
    }
}

/// Three digits that count.
pub(crate) fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}
