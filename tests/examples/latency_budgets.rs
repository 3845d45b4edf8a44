//! Whether an adaptive text student keeps times per token on this machine:
//! `cargo run --release -p limbeck-tests --example latency_budgets PLAN THREADS`.
//!
//! Decodes ids of a formula, at full compute and at the least, then under three latencies between the two and one
//! below both. In the midst of the three a process of its own keeps half of the machine's threads busy. What follows a
//! change is judged after 20 tokens. Prints one JSON object of times in milliseconds.

use std::process::{Child, Command};
use std::thread::available_parallelism;
use std::time::Duration;

use limbeck::{
    Budget, Engine, EngineOptions, Limits, Model, Sequence, Session, SessionOptions, Unmet, Usage,
    Wanted, Work,
};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A price at which no site keeps more than it must.
const DEAREST: f64 = 1e6;
/// Tokens in which a controller is to settle after a change.
const SETTLE: usize = 20;
/// Tokens that are judged then.
const JUDGED: usize = 80;
/// Where between the least and the full time the targets lie.
const TARGETS: [f64; 3] = [0.25, 0.5, 0.75];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [plan, threads] = args.as_slice() else {
        if args == ["busy"] {
            keep_busy();
        }
        return Err("PLAN THREADS".into());
    };
    let threads = threads.parse()?;
    let model = Engine::new(EngineOptions { threads, ..EngineOptions::default() })?.open(plan)?;
    let full = Run::new(&model, Budget::Full)?.part()?;
    let mut cheapest = Run::new(&model, Budget::Price(DEAREST))?;
    let least = cheapest.part()?;
    let busy = Busy::start()?;
    let least_beside = cheapest.part()?;
    drop(busy);
    let (most_ms, least_ms) = (full.median_ms, least.median_ms);
    let targets = TARGETS.map(|at| under_load(&model, least_ms + at * (most_ms - least_ms)));
    let below = Run::new(&model, latency(0.5 * least_ms))?.part()?;
    let report = json!({
        "threads": threads,
        "full_ms": most_ms,
        "least_ms": least_ms,
        "least_fraction": least.fraction,
        "least_beside_ms": least_beside.median_ms,
        "targets": targets.into_iter().collect::<Result<Vec<_>>>()?,
        "infeasible": below.json(0.5 * least_ms),
    });
    println!("{report}");
    Ok(())
}

/// A latency's three parts: alone, beside a busy process, alone again.
fn under_load(model: &Model, target: f64) -> Result<Value> {
    let mut run = Run::new(model, latency(target))?;
    let alone = run.part()?;
    let busy = Busy::start()?;
    let beside = run.part()?;
    drop(busy);
    let again = run.part()?;
    let [alone, beside, again] = [alone, beside, again].map(|part| part.json(target));
    Ok(json!({"target_ms": target, "alone": alone, "beside": beside, "again": again}))
}

/// What tokens came to once their budget had settled.
struct Part {
    median_ms: f64,
    p95_ms: f64,
    fraction: f64,
    unmet: Option<Unmet>,
}

impl Part {
    fn json(&self, target: f64) -> Value {
        json!({
            "target_ms": target,
            "median_ms": self.median_ms,
            "off": self.median_ms / target - 1.0,
            "p95_ms": self.p95_ms,
            "fraction": self.fraction,
            "unmet": self.unmet,
        })
    }
}

/// A session that decodes under a budget.
struct Run {
    session: Session,
    sequence: Sequence,
    vocab: u32,
    position: u32,
}

impl Run {
    fn new(model: &Model, budget: Budget) -> Result<Run> {
        let mut session = model.session(SessionOptions::default())?;
        session.control().set_budget(budget, Limits::default())?;
        let (sequence, vocab) = (session.sequence(), model.manifest().vocab_size as u32);
        Ok(Run { session, sequence, vocab, position: 0 })
    }

    /// Decodes so many tokens; gives the time of each, and what they spent.
    fn tokens(&mut self, count: usize) -> Result<(Vec<f64>, Usage)> {
        let mut total = Usage::default();
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            self.position += 1;
            let token = self.position.wrapping_mul(2_654_435_761) % self.vocab;
            let work = [Work { sequence: self.sequence, tokens: &[token], wanted: Wanted::Last }];
            let usage = self.session.step(&work, |_, _| ())?;
            times.push(usage.ms);
            total.add(&usage);
        }
        Ok((times, total))
    }

    /// Lets the budget settle and decodes what is judged.
    fn part(&mut self) -> Result<Part> {
        self.tokens(SETTLE)?;
        let (mut times, usage) = self.tokens(JUDGED)?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(share * times.len() as f64) as usize];
        Ok(Part {
            median_ms: at(0.5),
            p95_ms: at(0.95),
            fraction: usage.fraction,
            unmet: usage.unmet,
        })
    }
}

fn latency(ms: f64) -> Budget {
    Budget::Latency(Duration::from_secs_f64(ms / 1e3))
}

/// A process that computes on half of the machine's threads until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Result<Busy> {
        Ok(Busy(Command::new(std::env::current_exe()?).arg("busy").spawn()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keep_busy() -> ! {
    let half = available_parallelism().map_or(1, usize::from).div_ceil(2);
    for _ in 1..half {
        std::thread::spawn(spin);
    }
    spin()
}

fn spin() -> ! {
    loop {
        std::hint::black_box(0);
    }
}
