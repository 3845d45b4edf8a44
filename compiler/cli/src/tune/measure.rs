//! What a kind of student must offer to be measured, and how the work is shown.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use limbeck::plan::QualityKind;
use limbeck::{Budget, Control, Limits, Model, Usage};

use crate::output::{Failure, say};

/// A student's data, and how well the student does on it at a price.
pub trait Measure {
    /// What the quality is.
    fn quality(&self) -> QualityKind;

    /// The tokens of each piece of the data; pieces are run independently.
    fn pieces(&self) -> Vec<usize>;

    /// Runs some of the pieces, by index.
    fn run(&mut self, model: &Model, price: f64, pieces: &[usize]) -> Result<Measured, Failure>;

    /// Milliseconds that a token takes at the price of the last `run`.
    fn time(&mut self, model: &Model, price: f64) -> Result<f64, Failure>;
}

/// What a price led to.
pub struct Measured {
    /// What it spent.
    pub usage: Usage,
    /// Mean quality.
    pub quality: f64,
    /// Milliseconds per token, once they were taken.
    pub ms_per_token: Option<f64>,
    /// More numbers for the report, by name.
    pub more: Vec<(&'static str, f64)>,
}

/// The first pieces, up to this many tokens, at least one piece.
pub fn sample(measure: &dyn Measure, tokens: usize) -> Vec<usize> {
    let mut sum = 0;
    let pieces = measure.pieces();
    let fits = pieces.iter().take_while(|piece| {
        let before = sum;
        sum += **piece;
        before == 0 || sum <= tokens
    });
    (0..fits.count()).collect()
}

/// Sets a raw price.
pub fn set_price(control: &Control, price: f64) -> Result<(), Failure> {
    Ok(control.set_budget(Budget::Price(price), Limits::default())?)
}

/// The mean of some numbers, refused where it is none.
pub fn mean(sum: f64, count: usize, price: f64) -> Result<f64, Failure> {
    let mean = sum / count as f64;
    if mean.is_finite() {
        return Ok(mean);
    }
    Err(Failure::new(format!("the student's quality at price {price} is not a number")))
}

/// The median, 0 of none: what others do on the machine moves it little.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// How often a line tells where the work is, when no terminal shows it.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Tells how far the work is: a bar at a terminal, otherwise a line now and then.
pub struct Progress {
    bar: ProgressBar,
    /// When a line was last written where there is no terminal.
    last: Instant,
}

impl Progress {
    /// A bar of unknown length.
    pub fn new() -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Progress { bar, last: Instant::now() }
    }

    /// A part of the work of this many steps begins.
    pub fn start(&mut self, name: &str, steps: usize) {
        self.bar.set_prefix(name.to_owned());
        self.bar.set_length(steps as u64);
        self.bar.set_position(0);
    }

    /// A step is done.
    pub fn step(&mut self) {
        self.bar.inc(1);
    }

    /// What is at hand.
    pub fn say(&mut self, text: String) {
        if self.bar.is_hidden() && self.last.elapsed() >= LINE_EVERY {
            let bar = &self.bar;
            let (at, len) = (bar.position(), bar.length().unwrap_or(0));
            say(format_args!("{} {at}/{len} {text}", bar.prefix()));
            self.last = Instant::now();
        }
        self.bar.set_message(text);
    }

    /// Everything is done.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}
