//! `limbeck tune --sparsity`: which input channels linears may leave out, by measured loss.
//!
//! Each linear alone is made to leave out some shares of its channels, and what that does to the
//! student's predictions is measured: the mean divergence of its distribution of the next token
//! from the dense one's (Kullback-Leibler, nats). Then shares are given out greedily, the next step
//! always to the linear that loses least for the multiply-adds saved. Points on that way are the
//! site's levels; their losses are measured together, not added.

use std::path::Path;
use std::time::Instant;

use limbeck::plan::{Op, OperandKind, Task};
use limbeck::text::log_probabilities;
use limbeck::{Engine, Model, SessionOptions, Usage, Wanted, Work};
use limbeck_compiler::{SparsityLevel, check_output, rewrite, set_levels, sparsify};
use serde_json::json;

use super::measure::{Progress, set_price};
use crate::args::TuneArgs;
use crate::output::{Failure, print, print_json, say};
use crate::score::windows;

/// Tokens of a piece, and pieces that losses are measured on.
const PIECE: usize = 48;
const PIECES: usize = 16;
/// Tokens on which thresholds are looked for, and halvings of their range.
const THRESHOLD_TOKENS: usize = 64;
const HALVINGS: usize = 7;
/// Shares of its channels that each linear leaves out when it is measured.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];
/// Share that one greedy step adds, and the largest.
const STEP: f64 = 0.025;
const MOST: f64 = 0.85;
/// Levels, and the share of multiply-adds between two.
const LEVELS: usize = 15;
const LEVEL_STEP: f64 = 0.04;
/// A price at which a level is chosen whatever it loses.
const HIGH_PRICE: f64 = 1e3;

pub fn execute(args: &TuneArgs, engine: &Engine, output: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    check_output(output)?;
    let dense = engine.open(&args.plan)?;
    if dense.manifest().task != Task::Text {
        return Err(Failure::new("--sparsity needs a student that continues text"));
    }
    let mut progress = Progress::new();
    let repacked = Repacked(output.with_extension(format!("{}.repacked", std::process::id())));
    sparsify(dense.plan(), dense.bytes(), &repacked.0, &mut |_, _, name| {
        progress.say(format!("repacking {name}"));
    })?;
    let model = engine.open(&repacked.0)?;
    let tuning = Tuning::new(model, args)?;
    let curves = tuning.curves(&mut progress)?;
    let levels = tuning.levels(&curves, &mut progress)?;
    progress.finish();
    let mut program = tuning.model.plan().program().clone();
    set_levels(&mut program, &levels);
    rewrite(tuning.model.plan(), tuning.model.bytes(), &program, None, output)?;
    report(args, output, &levels, start.elapsed().as_secs_f64())
}

/// The plan between the dense one and the tuned one, which goes in the end.
struct Repacked(std::path::PathBuf);

impl Drop for Repacked {
    fn drop(&mut self) {
        // What is left over is only untidy.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A sparse linear: its multiply-adds per token, and what leaving out channels needs and does.
#[derive(Clone, Debug)]
struct Curve {
    macs: f64,
    /// Share left out, threshold, loss; by rising share, from 0 on.
    points: Vec<(f64, f32, f64)>,
}

impl Curve {
    /// The value of a column of the points at a share, by straight lines; beyond the last point the
    /// last line goes on.
    fn at(&self, share: f64, of: impl Fn(&(f64, f32, f64)) -> f64) -> f64 {
        let next = self.points.iter().position(|p| p.0 >= share).unwrap_or(self.points.len() - 1);
        let [a, b] =
            [next.max(1) - 1, next.max(1)].map(|i| self.points[i.min(self.points.len() - 1)]);
        if b.0 <= a.0 {
            return of(&a);
        }
        of(&a) + (share - a.0) / (b.0 - a.0) * (of(&b) - of(&a))
    }

    fn threshold(&self, share: f64) -> f32 {
        if share <= 0.0 { 0.0 } else { self.at(share, |p| f64::from(p.1)).max(0.0) as f32 }
    }

    /// Losses grow faster and faster; where the measured ones do not, noise is straightened.
    fn straighten(&mut self) {
        let mut hull: Vec<(f64, f32, f64)> = Vec::new();
        for point in &self.points {
            let mut point = *point;
            point.2 = point.2.max(hull.last().map_or(0.0, |p| p.2));
            while let [.., a, b] = hull.as_slice() {
                let slope = |p: &(f64, f32, f64), q: &(f64, f32, f64)| (q.2 - p.2) / (q.0 - p.0);
                if slope(a, b) <= slope(b, &point) {
                    break;
                }
                hull.pop();
            }
            hull.push(point);
        }
        let straight = Curve { macs: self.macs, points: hull };
        for point in &mut self.points {
            point.2 = straight.at(point.0, |p| p.2);
        }
    }
}

struct Tuning {
    model: Model,
    pieces: Vec<Vec<u32>>,
    /// By piece and token: the dense student's probabilities, and their sum of p log p.
    dense: Vec<Vec<(Vec<f32>, f64)>>,
    /// Multiply-adds per token of each sparse linear.
    macs: Vec<f64>,
}

impl Tuning {
    fn new(model: Model, args: &TuneArgs) -> Result<Tuning, Failure> {
        let all = windows(&model, &args.data, PIECE)?;
        let every = (all.len() / PIECES).max(1);
        let pieces = all.into_iter().step_by(every).take(PIECES).collect();
        let program = model.plan().program();
        let entries = program.entries.iter();
        let macs = entries.flat_map(|entry| {
            entry.steps().filter_map(|step| {
                let Op::SparseLinear(_) = step.op else { return None };
                match entry.operands[*step.inputs.get(1)?].kind {
                    OperandKind::Weight(w) => program.weights.get(w),
                    _ => None,
                }
            })
        });
        let macs = macs.map(|w| (w.rows * w.cols) as f64).collect();
        let mut tuning = Tuning { model, pieces, dense: Vec::new(), macs };
        let mut dense = Vec::new();
        tuning.run(&vec![0.0; tuning.macs.len()], usize::MAX, |_, logprobs| {
            let p: Vec<f32> = logprobs.iter().map(|l| l.exp()).collect();
            let entropy = p.iter().zip(logprobs).map(|(p, l)| f64::from(p * l)).sum();
            dense.push((p, entropy));
        })?;
        tuning.dense = dense.chunks(PIECE).map(<[_]>::to_vec).collect();
        Ok(tuning)
    }

    /// Runs up to `tokens` tokens of the pieces with these thresholds; `each` hears of the
    /// log-probabilities after each, and its index. Gives the share of the sparse linears'
    /// multiply-adds that were spent.
    fn run(
        &self,
        thresholds: &[f32],
        tokens: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<f64, Failure> {
        let mut program = self.model.plan().program().clone();
        let level = SparsityLevel { gain: -1.0, cost: 0.5, thresholds: thresholds.to_vec() };
        set_levels(&mut program, &[level]);
        let model = self.model.with_program(program)?;
        let options = SessionOptions { context: PIECE, chunk: PIECE, ..SessionOptions::default() };
        let mut session = model.session(options)?;
        set_price(&session.control(), HIGH_PRICE)?;
        let mut usage = Usage::default();
        let wanted = if tokens == usize::MAX { Wanted::All } else { Wanted::None };
        let mut logprobs = vec![0.0; model.manifest().vocab_size];
        let mut failure = None;
        for (index, piece) in self.pieces.iter().enumerate().take(tokens.div_ceil(PIECE)) {
            let sequence = session.sequence();
            let work = [Work { sequence, tokens: piece, wanted }];
            usage.add(&session.step(&work, |row, logits| {
                match log_probabilities(logits, &mut logprobs) {
                    Ok(()) => each(index * PIECE + row.token, &logprobs),
                    Err(e) => failure = Some(e),
                }
            })?);
            session.free(sequence)?;
        }
        failure.map_or(Ok(usage.site_fraction.unwrap_or(1.0)), |e| Err(e.into()))
    }

    /// The loss with these thresholds, and the share spent.
    fn loss(&self, thresholds: &[f32]) -> Result<(f64, f64), Failure> {
        let (mut sum, mut count) = (0.0, 0);
        let spent = self.run(thresholds, usize::MAX, |token, logprobs| {
            let (p, entropy) = &self.dense[token / PIECE][token % PIECE];
            let cross: f64 = p.iter().zip(logprobs).map(|(p, l)| f64::from(p * l)).sum();
            sum += entropy - cross;
            count += 1;
        })?;
        let loss = sum / f64::from(count.max(1));
        if loss.is_finite() {
            return Ok((loss.max(0.0), spent));
        }
        Err(Failure::new("the student's loss is not a number"))
    }

    fn curves(&self, progress: &mut Progress) -> Result<Vec<Curve>, Failure> {
        progress.start("linears", self.macs.len());
        let total: f64 = self.macs.iter().sum();
        let mut curves = Vec::new();
        for (index, macs) in self.macs.iter().enumerate() {
            let mut thresholds = vec![0.0; self.macs.len()];
            let mut points = vec![(0.0, 0.0, 0.0)];
            for share in SHARES {
                progress.say(format!("linear {index} without {share} of its channels"));
                let low = points.last().map_or(0.0, |p: &(f64, f32, f64)| p.1);
                let mut dropped = |threshold: f32| {
                    thresholds[index] = threshold;
                    Ok((1.0 - self.run(&thresholds, THRESHOLD_TOKENS, |_, _| {})?) * total / macs)
                };
                let (threshold, found) = find_threshold(share, low, &mut dropped)?;
                if found <= points.last().map_or(0.0, |p| p.0) {
                    continue;
                }
                thresholds[index] = threshold;
                points.push((found, threshold, self.loss(&thresholds)?.0));
            }
            let mut curve = Curve { macs: *macs, points };
            curve.straighten();
            curves.push(curve);
            progress.step();
        }
        Ok(curves)
    }

    fn levels(
        &self,
        curves: &[Curve],
        progress: &mut Progress,
    ) -> Result<Vec<SparsityLevel>, Failure> {
        progress.start("levels", LEVELS);
        let mut levels: Vec<SparsityLevel> = Vec::new();
        for shares in allocate(curves) {
            let thresholds: Vec<f32> =
                curves.iter().zip(&shares).map(|(c, s)| c.threshold(*s)).collect();
            let (loss, spent) = self.loss(&thresholds)?;
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
}

/// A threshold above `low` that leaves out about this share, and the share that it does leave out.
fn find_threshold(
    share: f64,
    low: f32,
    dropped: &mut dyn FnMut(f32) -> Result<f64, Failure>,
) -> Result<(f32, f64), Failure> {
    let (mut low, mut high) = (low, if low > 0.0 { low * 2.0 } else { 1e-3 });
    for _ in 0..64 {
        if dropped(high)? >= share {
            break;
        }
        (low, high) = (high, high * 2.0);
    }
    let mut best = (high, f64::INFINITY);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        let found = dropped(middle)?;
        if (found - share).abs() < (best.1 - share).abs() {
            best = (middle, found);
        }
        if (found - share).abs() < 0.01 {
            break;
        }
        if found < share { low = middle } else { high = middle }
    }
    Ok(best)
}

/// Gives out shares step by step to whom they cost least; the shares of each level.
fn allocate(curves: &[Curve]) -> Vec<Vec<f64>> {
    let total: f64 = curves.iter().map(|c| c.macs).sum();
    let mut shares = vec![0.0; curves.len()];
    let mut levels = Vec::new();
    let mut saved = 0.0;
    while levels.len() < LEVELS {
        let price = |(curve, share): (&Curve, &f64)| {
            let loss = |share: f64| curve.at(share, |p| p.2);
            (loss(share + STEP) - loss(*share)) / curve.macs
        };
        let open = |share: &f64| share + STEP <= MOST;
        let prices = curves.iter().zip(&shares).map(|pair| open(pair.1).then(|| price(pair)));
        let best = prices.enumerate().filter_map(|(i, p)| Some((i, p?)));
        let Some((best, _)) = best.min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
        shares[best] += STEP;
        saved += STEP * curves[best].macs / total;
        if saved >= LEVEL_STEP * (levels.len() + 1) as f64 {
            levels.push(shares.clone());
        }
    }
    levels
}

fn report(
    args: &TuneArgs,
    output: &Path,
    levels: &[SparsityLevel],
    seconds: f64,
) -> Result<(), Failure> {
    if args.json {
        let levels = levels.iter().map(|l| json!({"cost": l.cost, "loss": -l.gain}));
        return print_json(&json!({
            "plan": output.display().to_string(),
            "levels": levels.collect::<Vec<_>>(),
            "seconds": seconds,
        }));
    }
    let mut text = String::from("left out  loss (nats)\n");
    for level in levels.iter().rev() {
        text += &format!("{:7.1}%  {:.4}\n", (1.0 - level.cost) * 1e2, -level.gain);
    }
    print(&text)?;
    say(format_args!("wrote {} ({seconds:.1} s)", output.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(macs: f64, losses: [f64; 3]) -> Curve {
        let points = [0.25, 0.5, 0.75].into_iter().zip(losses);
        let points = points.map(|(share, loss)| (share, share as f32, loss));
        Curve { macs, points: [(0.0, 0.0, 0.0)].into_iter().chain(points).collect() }
    }

    #[test]
    fn shares_go_to_whom_they_cost_least() {
        let curves = [curve(1.0, [1.0, 3.0, 9.0]), curve(1.0, [0.1, 0.3, 2.9])];
        let levels = allocate(&curves);
        let total = |level: &[f64]| level.iter().sum::<f64>() / 2.0;
        for (i, level) in levels.iter().enumerate() {
            assert!((total(level) - LEVEL_STEP * (i + 1) as f64).abs() < STEP, "{level:?}");
        }
        assert!(levels[4][0] < 0.01 && levels[4][1] > 0.35, "{:?}", levels[4]);
        assert!(levels[14][0] > 0.3, "{:?}", levels[14]);
    }

    #[test]
    fn curves_go_through_their_points_and_beyond() {
        let mut curve = curve(1.0, [1.0, 1.5, 5.0]);
        curve.straighten();
        assert!((curve.at(0.25, |p| p.2) - 0.75).abs() < 1e-9, "{curve:?}");
        assert_eq!(curve.at(0.5, |p| p.2), 1.5);
        assert!((curve.at(1.0, |p| p.2) - 8.5).abs() < 1e-9);
        assert_eq!((curve.threshold(0.0), curve.threshold(0.5)), (0.0, 0.5));
    }

    #[test]
    fn a_threshold_is_found_by_halving() {
        let mut dropped = |t: f32| Ok(f64::from(t / 4.0).min(1.0));
        let (threshold, share) = find_threshold(0.5, 0.0, &mut dropped).unwrap();
        assert!((share - 0.5).abs() < 0.02 && (threshold - 2.0).abs() < 0.1);
    }
}
