//! Rounds in which sides take turns, and what becomes of their figures.

use serde_json::{Value, json};

use crate::process::Result;

/// A program with a student, and what measures it: the same figures each time.
pub struct Side<'a> {
    /// Unlike those beside it.
    pub name: String,
    measure: Box<dyn Fn() -> Result<Vec<f64>> + 'a>,
}

/// All figures of a side, a list for each round.
pub struct Series {
    /// The side's.
    pub name: String,
    rounds: Vec<Vec<f64>>,
}

impl<'a> Side<'a> {
    /// A side.
    pub fn new(name: impl Into<String>, measure: impl Fn() -> Result<Vec<f64>> + 'a) -> Side<'a> {
        Side { name: name.into(), measure: Box::new(measure) }
    }
}

/// Measures all sides in each round. Every other round goes through them backwards, so that none
/// always runs on the warmer machine.
pub fn alternate(title: &str, sides: &[Side<'_>], rounds: u32) -> Result<Vec<Series>> {
    let new = |side: &Side<'_>| Series { name: side.name.clone(), rounds: Vec::new() };
    let mut all: Vec<Series> = sides.iter().map(new).collect();
    for round in 1..=rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for (side, series) in order.into_iter().filter_map(|at| sides.get(at).zip(Some(at))) {
            let figures = (side.measure)()?;
            let shown: Vec<String> = figures.iter().map(|figure| format!("{figure:.2}")).collect();
            eprintln!("{title}, round {round} of {rounds}, {}: {}", side.name, shown.join(" "));
            if let Some(series) = all.get_mut(series) {
                series.rounds.push(figures);
            }
        }
    }
    Ok(all)
}

impl Series {
    /// The figure at a place, a value for each round.
    pub fn figure(&self, at: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round.get(at).copied().unwrap_or(f64::NAN)).collect()
    }
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// More is better.
    TokensPerSecond,
    /// Less is better.
    Milliseconds,
    /// By which a process has grown at most; less is better.
    Mebibytes,
}

impl Unit {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tokens/s",
            Unit::Milliseconds => "ms",
            Unit::Mebibytes => "MiB",
        }
    }

    /// How many times as good the first is.
    fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Unit::TokensPerSecond => ours / theirs,
            Unit::Milliseconds | Unit::Mebibytes => theirs / ours,
        }
    }
}

/// One figure of ours against the fastest of the peer's.
#[derive(Debug)]
pub struct Line {
    /// Student and format.
    pub case: String,
    /// Of both sides.
    pub threads: u32,
    /// What is measured.
    pub what: String,
    /// Of the figures.
    pub unit: Unit,
    /// Our median.
    pub ours: f64,
    /// The peer's median, where it is the fastest.
    pub theirs: f64,
    /// Which of the peer's that is.
    pub peer: String,
    /// Of the medians, and the least and the greatest of a round.
    pub ratio: [f64; 3],
    /// Our share of the machine's ceiling, and which one.
    pub share: Option<(f64, &'static str)>,
    all: Value,
}

impl Line {
    /// Compares the figures at a place; `share_at` is the place of our share of a ceiling.
    pub fn new(
        [case, what]: [&str; 2],
        threads: u32,
        unit: Unit,
        at: usize,
        ours: &Series,
        peers: &[&Series],
        share: Option<(usize, &'static str)>,
    ) -> Line {
        let our = ours.figure(at);
        let middle = median(our.clone());
        let speed = |peer: &Series| unit.ratio(median(peer.figure(at)), 1.0);
        let best = peers.iter().max_by(|a, b| speed(a).total_cmp(&speed(b)));
        let their = best.map(|peer| peer.figure(at)).unwrap_or_default();
        let ratios: Vec<f64> = our.iter().zip(&their).map(|(a, b)| unit.ratio(*a, *b)).collect();
        let theirs = median(their);
        let figures = |series: &Series| json!({"name": series.name, "rounds": series.figure(at)});
        Line {
            case: case.to_owned(),
            threads,
            what: what.to_owned(),
            unit,
            ours: middle,
            theirs,
            peer: best.map(|peer| peer.name.clone()).unwrap_or_default(),
            ratio: [
                unit.ratio(middle, theirs),
                ratios.iter().copied().fold(f64::INFINITY, f64::min),
                ratios.iter().copied().fold(0.0, f64::max),
            ],
            share: share.map(|(at, ceiling)| (median(ours.figure(at)), ceiling)),
            all: json!({
                "ours": figures(ours),
                "peers": peers.iter().map(|peer| figures(peer)).collect::<Vec<_>>(),
            }),
        }
    }

    /// Everything, rounds too.
    pub fn json(&self) -> Value {
        json!({
            "case": self.case,
            "threads": self.threads,
            "what": self.what,
            "unit": self.unit.name(),
            "ours": self.ours,
            "theirs": self.theirs,
            "peer": self.peer,
            "ratio": self.ratio[0],
            "least_ratio": self.ratio[1],
            "greatest_ratio": self.ratio[2],
            "share": self.share.map(|share| share.0),
            "ceiling": self.share.map(|share| share.1),
            "rounds": self.all,
        })
    }
}

/// The median; the mean of the middle two where the count is even; NaN of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn series(name: &str, rounds: [[f64; 2]; 3]) -> Series {
        Series { name: name.into(), rounds: rounds.map(Vec::from).into() }
    }

    #[test]
    fn ratios_are_of_medians_and_rounds_are_paired() {
        let ours = series("ours", [[30.0, 0.5], [10.0, 0.25], [20.0, 0.75]]);
        let slow = series("slow", [[1.0, 0.0]; 3]);
        let fast = series("fast", [[15.0, 0.0], [10.0, 0.0], [5.0, 0.0]]);
        let peers = [&slow, &fast];
        let share = Some((1, "read"));
        let unit = Unit::TokensPerSecond;
        let line = Line::new(["c", "decode"], 1, unit, 0, &ours, &peers, share);
        assert_eq!((line.ours, line.theirs, line.peer.as_str()), (20.0, 10.0, "fast"));
        assert_eq!(line.ratio, [2.0, 1.0, 4.0]);
        assert_eq!(line.share, Some((0.5, "read")));
        // As times, the other is the fastest.
        let line = Line::new(["c", "call"], 1, Unit::Milliseconds, 0, &ours, &peers, None);
        assert_eq!((line.peer.as_str(), line.ratio[0]), ("slow", 0.05));
        let line = Line::new(["c", "call"], 1, Unit::Mebibytes, 1, &ours, &[&fast], None);
        assert_eq!((line.unit.name(), line.ratio[0]), ("MiB", 0.0));
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn every_other_round_goes_backwards() {
        let order = RefCell::new(String::new());
        let side = |name: &'static str| {
            let order = &order;
            Side::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(vec![order.borrow().len() as f64])
            })
        };
        let all = alternate("t", &[side("a"), side("b")], 3).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(all[0].figure(0), [1.0, 4.0, 5.0]);
        assert!(all[1].figure(1)[0].is_nan());
    }
}
