//! `limbeck tune --sparsity`: which input channels linears may leave out, by measured loss.
//!
//! `trial` measures what thresholds do to the student's predictions, `fit` finds how the linears'
//! thresholds go together. A scale for all of them makes the site's levels, whose losses are
//! measured together, not added.

mod fit;
mod levels;
mod trial;

use std::path::Path;
use std::time::Instant;

use limbeck::plan::Task;
use limbeck::{Engine, Model};
use limbeck_compiler::{SparsityLevel, check_output, rewrite, set_levels, sparsify};
use serde_json::json;

use super::measure::Progress;
use crate::args::TuneArgs;
use crate::output::{Failure, print, print_json, say};
use levels::Levels;
use trial::Trial;

/// Levels, and the share of multiply-adds between two.
const LEVELS: usize = 15;
const LEVEL_STEP: f64 = 0.04;

pub fn execute(args: &TuneArgs, engine: &Engine, output: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    check_output(output)?;
    let dense = engine.open(&args.plan)?;
    if dense.manifest().task != Task::Text {
        return Err(Failure::new("--sparsity needs a student that continues text"));
    }
    let mut progress = Progress::new();
    let repacked = Repacked(output.with_extension(format!("{}.repacked", std::process::id())));
    let read = |file| Levels::read(file).map(|levels| (file, levels));
    let given = args.levels.as_deref().map(read).transpose()?;
    let weights = given.as_ref().map(|(_, levels)| levels.channel_weights());
    sparsify(
        dense.plan(),
        dense.bytes(),
        &weights.unwrap_or_default(),
        &repacked.0,
        &mut |_, _, name| {
            progress.say(format!("repacking {name}"));
        },
    )?;
    let model = engine.open(&repacked.0)?;
    // Where the system lets go of the name of a mapped file, nothing is left over however this ends.
    repacked.remove();
    let levels = match &given {
        Some((file, given)) => given.of(file, &model)?,
        None => fitted(model.clone(), args, &mut progress)?,
    };
    progress.finish();
    let mut program = model.plan().program().clone();
    set_levels(&mut program, &levels);
    // Levels of a file may be too many for a plan.
    model.with_program(program.clone())?;
    rewrite(model.plan(), model.bytes(), &program, None, output)?;
    let stored = given.map_or_else(|| Levels::new(&model, &levels), |(_, levels)| levels);
    report(args, output, &stored, start.elapsed().as_secs_f64())
}

/// The levels that suit the data best.
fn fitted(
    model: Model,
    args: &TuneArgs,
    progress: &mut Progress,
) -> Result<Vec<SparsityLevel>, Failure> {
    let trial = Trial::new(model, args)?;
    let ratios = fit::ratios(&trial, progress)?;
    let ratios = fit::refine(&trial, ratios, progress)?;
    levels(&trial, &ratios, progress)
}

/// The plan between the dense one and the tuned one, which goes as soon as it can.
struct Repacked(std::path::PathBuf);

impl Repacked {
    /// Takes its name away. What is left over is only untidy.
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for Repacked {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The levels by rising cost: the share left out grows evenly.
fn levels(
    trial: &Trial,
    ratios: &[f64],
    progress: &mut Progress,
) -> Result<Vec<SparsityLevel>, Failure> {
    progress.start("levels", LEVELS);
    let mut levels: Vec<SparsityLevel> = Vec::new();
    let mean = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
    let mut scale = 1e-3 / mean;
    for step in 1..=LEVELS {
        let share = LEVEL_STEP * step as f64;
        scale = fit::scale_for(trial, ratios, share, scale)?;
        let thresholds = fit::thresholds(ratios, scale);
        let (loss, spent) = trial.loss(&thresholds, usize::MAX)?;
        progress.say(format!("{:.0} % left out: loss {loss:.4}", (1.0 - spent) * 1e2));
        progress.step();
        // A level must save more than the one before, and lose more.
        let (gain, cost) = levels.last().map_or((0.0, 1.0), |l| (l.gain, l.cost));
        if spent < cost && -loss < gain {
            levels.push(SparsityLevel { gain: -loss, cost: spent, thresholds });
        }
    }
    levels.reverse();
    Ok(levels)
}

fn report(args: &TuneArgs, output: &Path, levels: &Levels, seconds: f64) -> Result<(), Failure> {
    if args.json {
        let mut report = json!(levels);
        report["plan"] = json!(output.display().to_string());
        report["seconds"] = json!(seconds);
        return print_json(&report);
    }
    let mut text = String::from("left out  loss (nats)\n");
    for (cost, loss) in levels.costs() {
        text += &format!("{:7.1}%  {loss:.4}\n", (1.0 - cost) * 1e2);
    }
    print(&text)?;
    say(format_args!("wrote {} ({seconds:.1} s)", output.display()));
    Ok(())
}
