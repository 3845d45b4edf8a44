//! `limbeck tune`: measures what prices of compute lead to on data and stores the table in the plan.

mod embed;
mod frontier;
mod images;
mod measure;
mod plot;
mod prices;
mod search;
mod sparsity;
mod text;

use std::path::{Path, PathBuf};
use std::time::Instant;

use limbeck::Model;
use limbeck::plan::{Calibration, CalibrationPoint, Task};
use limbeck_compiler::{check_output, rewrite};
use serde_json::{Value, json};

use crate::args::{TuneArgs, engine};
use crate::calibration;
use crate::output::{Failure, at_file, check_result, print, print_json, say, write_result};
use embed::Sentences;
use images::Images;
use measure::{Measure, Measured, Progress};
use search::{Search, search};
use text::Windows;

/// Fewest and most prices to measure.
pub const PRICES: std::ops::RangeInclusive<usize> = 12..=Calibration::MAX_POINTS;
/// Tokens on which prices are looked for.
const SAMPLE_TOKENS: usize = 1024;

pub fn execute(args: TuneArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let output = args.output.clone().unwrap_or_else(|| args.plan.clone());
    check(&args, &output)?;
    let engine = engine(&args.backend, args.threads)?;
    if args.sparsity {
        return sparsity::execute(&args, &engine, &output);
    }
    let mut model = engine.open(&args.plan)?;
    if model.plan().program().sites.is_empty() {
        let message = "the plan has no site: there is nothing to tune in a dense student";
        return Err(Failure::new(format!("{}: {message}", args.plan.display())));
    }
    let mut measure: Box<dyn Measure> = match model.manifest().task {
        Task::Embed => Box::new(Sentences::read(&model, &args)?),
        Task::Text => Box::new(Windows::read(&model, &args)?),
        Task::Classify => Box::new(Images::read(&model, &args)?),
        Task::Tensors => {
            return Err(Failure::new("a plan of tensors has no sites to tune"));
        }
        Task::Diffuse => {
            return Err(Failure::new(
                "the steps of a sampler are chosen by their number, not tuned",
            ));
        }
    };
    let measure = measure.as_mut();
    let mut progress = Progress::new();
    let sample = measure::sample(measure, SAMPLE_TOKENS);
    let mut prices = find_prices(&model, measure, &sample, args.prices, &mut progress)?;
    let mut found = None;
    if args.search {
        let result = search(&model, measure, &prices, args.search_rounds, &mut progress)?;
        if result.improves() {
            model = model.with_program(result.program().clone())?;
            prices = find_prices(&model, measure, &sample, args.prices, &mut progress)?;
        }
        found = Some(result);
    }
    let points = measure_all(&model, measure, &prices, &mut progress)?;
    progress.finish();
    let table = table(&args, &model, measure, &points);
    let drawn = args.plot.as_ref().map(|_| plot::draw(&table, &model.manifest().student));
    let drawn = drawn.transpose()?;
    rewrite(model.plan(), model.bytes(), model.plan().program(), Some(&table), &output)?;
    if let (Some(path), Some(svg)) = (&args.plot, drawn) {
        write_result(path, svg)?;
    }
    report(&args, &output, &table, &points, found.as_ref(), start.elapsed().as_secs_f64())
}

/// What can be refused before anything is measured.
fn check(args: &TuneArgs, output: &Path) -> Result<(), Failure> {
    if args.output.is_some() {
        check_output(output)?;
    }
    if let Some(plot) = &args.plot {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if [args.data(), &args.plan, output].iter().any(|other| real(plot) == real(other)) {
            let message = "--plot would replace what the command reads or writes";
            return Err(Failure::new(format!("{}: {message}", plot.display())));
        }
        check_result(plot)?;
    }
    let folder = |path: &PathBuf| path.parent().map(Path::to_path_buf);
    for folder in [args.plot.as_ref().and_then(folder), folder(&output.into())] {
        if let Some(folder) = folder.filter(|f| !f.as_os_str().is_empty()) {
            at_file(&folder, std::fs::metadata(&folder))?;
        }
    }
    Ok(())
}

fn find_prices(
    model: &Model,
    measure: &mut dyn Measure,
    sample: &[usize],
    count: usize,
    progress: &mut Progress,
) -> Result<Vec<f64>, Failure> {
    prices::find(count, |price| {
        progress.say(format!("looking for prices: {price:.2e}"));
        Ok(measure.run(model, price, sample)?.usage.fraction)
    })
}

fn measure_all(
    model: &Model,
    measure: &mut dyn Measure,
    prices: &[f64],
    progress: &mut Progress,
) -> Result<Vec<(f64, Measured)>, Failure> {
    let all: Vec<usize> = (0..measure.pieces().len()).collect();
    progress.start("measuring", prices.len());
    let points = prices.iter().map(|&price| {
        progress.say(format!("price {price:.2e}"));
        let mut measured = measure.run(model, price, &all)?;
        measured.ms_per_token = Some(measure.time(model, price)?);
        progress.step();
        Ok((price, measured))
    });
    points.collect()
}

fn table(
    args: &TuneArgs,
    model: &Model,
    measure: &dyn Measure,
    points: &[(f64, Measured)],
) -> Calibration {
    let data = args.data().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let point = |(price, found): &(f64, Measured)| CalibrationPoint {
        price: *price,
        fraction: found.usage.fraction,
        site_fraction: found.usage.site_fraction.unwrap_or(1.0),
        quality: found.quality,
        ms_per_token: found.ms_per_token,
    };
    Calibration {
        quality: measure.quality(),
        data,
        tokens: measure.pieces().iter().map(|tokens| *tokens as u64).sum(),
        machine: Some(machine(model)),
        points: points.iter().map(point).collect(),
    }
}

/// The processor, where the system names it, and what computes on it.
fn machine(model: &Model) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
    name.map_or_else(|| model.backend(), |name| format!("{name}, {}", model.backend()))
}

fn report(
    args: &TuneArgs,
    output: &Path,
    table: &Calibration,
    points: &[(f64, Measured)],
    search: Option<&Search>,
    seconds: f64,
) -> Result<(), Failure> {
    if args.json {
        let mut calibration = serde_json::to_value(table).map_err(Failure::new)?;
        for (index, (_, measured)) in points.iter().enumerate() {
            for (name, value) in &measured.more {
                calibration["points"][index][*name] = json!(value);
            }
        }
        return print_json(&json!({
            "plan": output.display().to_string(),
            "calibration": calibration,
            "search": search.map_or(Value::Null, Search::to_json),
            "plot": args.plot.as_ref().map(|path| path.display().to_string()),
            "seconds": seconds,
        }));
    }
    print(&calibration::table(table))?;
    if let Some(search) = search {
        say(search);
    }
    say(format_args!("wrote {} ({seconds:.1} s)", output.display()));
    Ok(())
}
