//! `limbeck bench --kernels`: every kernel that reads a weight against the machine's ceilings, and
//! the selection against the fastest.

use limbeck::plan::Values;
use limbeck_kernels::rates::{Ceilings, Contest, Rate, faster};
use limbeck_kernels::{KernelOp, Pool};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::output::{Failure, note, print_json, print_line};

/// How many times as fast as the selected row another one may be.
const TOLERANCE: f64 = 1.05;
/// Measurements of a contest that the selected row loses, before that is believed.
const ATTEMPTS: usize = 3;

/// A pool of the threads that were asked for.
pub fn pool(args: &BenchArgs) -> Pool {
    Pool::new(match args.runner.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    })
}

/// The ceilings as reports hold them.
pub fn ceilings_json(ceilings: &Ceilings) -> Value {
    json!({
        "read_bytes_per_second": ceilings.read,
        "f32_ops_per_second": ceilings.f32_ops,
        "int8_ops_per_second": ceilings.int8_ops,
    })
}

/// The same for people. Those of a device are of reading alone.
pub fn ceilings_line(ceilings: &Value) -> String {
    let giga = |key: &str| ceilings[key].as_f64().unwrap_or(0.0) / 1e9;
    let read = format!("ceilings {:.1} GB/s read", giga("read_bytes_per_second"));
    if ceilings["f32_ops_per_second"].is_null() {
        return read;
    }
    format!(
        "{read}, {:.0} Gop/s of f32, {:.0} Gop/s of 8 bits",
        giga("f32_ops_per_second"),
        giga("int8_ops_per_second"),
    )
}

pub fn execute(args: &BenchArgs) -> Result<(), Failure> {
    let pool = pool(args);
    // Machines are shared: what they give at most is asked before and after.
    let before = Ceilings::measure(&pool);
    let mut all = Vec::new();
    for contest in Contest::all() {
        all.push((contest, settled(&contest, &pool)?));
    }
    let ceilings = before.max(Ceilings::measure(&pool));
    let each = || all.iter().flat_map(|(c, rates)| rates.iter().map(move |rate| (c, rate)));
    let beaten: Vec<String> = all.iter().filter_map(|(c, rates)| complaint(c, rates)).collect();
    if args.runner.json {
        print_json(&json!({
            "threads": pool.threads(),
            "ceilings": ceilings_json(&ceilings),
            "kernels": each().map(|(c, rate)| row(c, rate, &ceilings)).collect::<Vec<_>>(),
            "beaten": beaten,
        }))?;
    } else {
        print_line(ceilings_line(&ceilings_json(&ceilings)))?;
        print_line("kernel                     rows     GB/s    Gop/s  of ceiling")?;
        each().try_for_each(|(c, rate)| print_line(line(c, rate, &ceilings)))?;
    }
    if beaten.is_empty() { Ok(()) } else { Err(Failure::new(beaten.join("; "))) }
}

/// The rates of a contest; measured again while the selected row loses, since machines are shared.
fn settled(contest: &Contest, pool: &Pool) -> Result<Vec<Rate>, Failure> {
    let mut rates = Vec::new();
    for attempt in 1..=ATTEMPTS {
        rates = contest.run(pool).map_err(Failure::new)?;
        match complaint(contest, &rates) {
            Some(message) if attempt < ATTEMPTS => note(format!("measured again: {message}")),
            _ => break,
        }
    }
    Ok(rates)
}

/// What is wrong with the selection, if anything is.
fn complaint(contest: &Contest, rates: &[Rate]) -> Option<String> {
    let selected = rates.iter().find(|rate| rate.row.selected())?;
    let (times, best) = faster(rates).filter(|(times, _)| *times > TOLERANCE)?;
    let (best, selected) = (best.row.name(), selected.row.name());
    let rows = contest.rows;
    Some(format!(
        "at {rows} rows {best} is {times:.2} times as fast as {selected}, which is selected"
    ))
}

/// The share of the ceiling that bounds a row: reading memory at one row, computing at many.
fn share(contest: &Contest, rate: &Rate, ceilings: &Ceilings) -> f64 {
    let floats = matches!(contest.format.values, Values::F32 | Values::F16);
    match (contest.from_memory(), floats) {
        (true, _) => rate.bytes / ceilings.read,
        (false, true) => rate.ops / ceilings.f32_ops,
        (false, false) => rate.ops / ceilings.int8_ops,
    }
}

fn line(contest: &Contest, rate: &Rate, ceilings: &Ceilings) -> String {
    format!(
        "{:26} {:>4} {:>8.1} {:>8.1} {:>9.0} %{}",
        rate.row.name(),
        contest.rows,
        rate.bytes / 1e9,
        rate.ops / 1e9,
        100.0 * share(contest, rate, ceilings),
        if rate.row.selected() { "  selected" } else { "" },
    )
}

fn row(contest: &Contest, rate: &Rate, ceilings: &Ceilings) -> Value {
    json!({
        "kernel": rate.row.name(),
        "op": match contest.op {
            KernelOp::Channels => "channels",
            _ => "linear",
        },
        "format": contest.format.to_string(),
        "isa": rate.row.isa().name(),
        "cost": rate.row.cost(),
        "selected": rate.row.selected(),
        "rows": contest.rows,
        "from_memory": contest.from_memory(),
        "seconds": rate.seconds,
        "bytes_per_second": rate.bytes,
        "ops_per_second": rate.ops,
        "share": share(contest, rate, ceilings),
    })
}
