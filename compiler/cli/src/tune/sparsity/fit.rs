//! Thresholds of all linears at once.
//!
//! The threshold of linear `i` is `scale * ratios[i]`, so that one number, the scale, goes from
//! nothing left out to much. The ratios come from a trial of each linear alone: near 0 a threshold
//! `t` leaves out a share of channels that grows with `t`, and a loss that grows with the energy of
//! what is left out, with `t^3`. Where the share is `f` and the loss `L`, one more multiply-add saved
//! thus costs `3 L / (f macs)` nats, which grows with `t^2`; the linears' prices are equal where
//! `ratios[i] = t sqrt(f macs / (3 L))`. Then groups of linears are moved together, as far as the
//! loss of all falls at one share left out: this sees what linears do to each other.

use super::trial::Trial;
use crate::output::Failure;
use crate::tune::measure::Progress;

/// Share of its channels that a linear leaves out when it is tried alone, and how near is enough.
const SHARE: f64 = 0.4;
const NEAR: f64 = 0.08;
/// Runs that look for it, and their tokens.
const LOOKS: usize = 40;
const LOOK_TOKENS: usize = 64;
/// Pieces of a trial of one linear, and of all.
const ALONE: usize = 4;
const TOGETHER: usize = 8;
/// Pieces and tokens of each on which scales are looked for.
const SCALE_PIECES: usize = 8;
const SCALE_TOKENS: usize = 64;
/// Share left out at which groups are moved, factors of moves, and rounds.
const MOVED_AT: f64 = 0.3;
const MOVES: [f64; 2] = [1.25, 1.1];
/// Parts of the depth that are moved.
const DEPTHS: usize = 4;
/// Least loss, for linears that lose nothing measurable.
const LEAST_LOSS: f64 = 1e-6;

/// The ratio of each linear's threshold, from trials of each alone.
pub fn ratios(trial: &Trial, progress: &mut Progress) -> Result<Vec<f64>, Failure> {
    let linears = trial.linears();
    progress.start("linears", linears.len());
    let total: f64 = linears.iter().map(|l| l.macs()).sum();
    let mut found: Vec<(f64, f64)> = Vec::new();
    for (index, linear) in linears.iter().enumerate() {
        let alone = |threshold: f64| {
            let mut thresholds = vec![0.0; linears.len()];
            thresholds[index] = threshold as f32;
            thresholds
        };
        let share = |spent: f64| (1.0 - spent) * total / linear.macs();
        // One of the same shape before it will need much the same.
        let like = linears[..index].iter().rposition(|l| l == linear);
        let start = like.map_or(1e-3, |i| found[i].0);
        let threshold = find(SHARE, NEAR, start, &mut |threshold| {
            Ok(share(trial.spent(&alone(threshold), 1, LOOK_TOKENS)?))
        })?;
        let (loss, spent) = trial.loss(&alone(threshold), ALONE)?;
        let left_out = share(spent);
        progress.say(format!("linear {index}: {:.0} % cost {loss:.5} nats", left_out * 1e2));
        progress.step();
        found.push((threshold, ratio(threshold, left_out, loss, linear.macs())));
    }
    Ok(found.into_iter().map(|f| f.1).collect())
}

/// What a linear's threshold must be in proportion to, from one with its share left out and loss.
fn ratio(threshold: f64, left_out: f64, loss: f64, macs: f64) -> f64 {
    threshold * (left_out * macs / (3.0 * loss.max(LEAST_LOSS))).sqrt()
}

/// Each linear's threshold at a scale.
pub fn thresholds(ratios: &[f64], scale: f64) -> Vec<f32> {
    let most = f64::from(f32::MAX);
    ratios.iter().map(|r| (r * scale).min(most) as f32).collect()
}

/// The scale that leaves out a share of all multiply-adds; looked for from `start` on.
pub fn scale_for(trial: &Trial, ratios: &[f64], share: f64, start: f64) -> Result<f64, Failure> {
    find(share, 1e-3, start, &mut |scale| {
        Ok(1.0 - trial.spent(&thresholds(ratios, scale), SCALE_PIECES, SCALE_TOKENS)?)
    })
}

/// Where `dropped`, which rises, is a share, to within `near`; looked for from `start` on.
fn find(
    share: f64,
    near: f64,
    start: f64,
    dropped: &mut dyn FnMut(f64) -> Result<f64, Failure>,
) -> Result<f64, Failure> {
    let (mut low, mut high) = ((0.0, 0.0), None::<(f64, f64)>);
    let mut at = start;
    for _ in 0..LOOKS {
        let found = dropped(at)?;
        if (found - share).abs() < near {
            break;
        }
        match found < share {
            true => low = (at, found),
            false => high = Some((at, found)),
        }
        at = match high {
            // Between two, by a straight line kept off its ends.
            Some(high) => {
                let part = (share - low.1) / (high.1 - low.1).max(1e-9);
                low.0 + part.clamp(0.05, 0.95) * (high.0 - low.0)
            }
            None => at * (share / found.max(1e-3)).clamp(1.05, 4.0),
        };
    }
    Ok(at)
}

/// Moves groups of linears where that lowers the loss at [`MOVED_AT`]; gives the new ratios.
pub fn refine(
    trial: &Trial,
    mut ratios: Vec<f64>,
    progress: &mut Progress,
) -> Result<Vec<f64>, Failure> {
    let groups = groups(trial);
    progress.start("moves", groups.len() * MOVES.len());
    let first = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let mut scale = scale_for(trial, &ratios, MOVED_AT, 1e-2 / first)?;
    let mut best = trial.loss(&thresholds(&ratios, scale), TOGETHER)?.0;
    for factor in MOVES {
        for group in &groups {
            for factor in [factor, 1.0 / factor] {
                let mut moved = ratios.clone();
                group.iter().for_each(|i| moved[*i] *= factor);
                let to = scale_for(trial, &moved, MOVED_AT, scale)?;
                let loss = trial.loss(&thresholds(&moved, to), TOGETHER)?.0;
                progress.say(format!("{:.0} % left out: loss {loss:.5}", MOVED_AT * 1e2));
                if loss < best {
                    (ratios, scale, best) = (moved, to, loss);
                    break;
                }
            }
            progress.step();
        }
    }
    Ok(ratios)
}

/// Linears of one shape, and linears of one part of the depth.
fn groups(trial: &Trial) -> Vec<Vec<usize>> {
    let linears = trial.linears();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, linear) in linears.iter().enumerate() {
        match groups.iter_mut().find(|g| linears[g[0]] == *linear) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let all: Vec<usize> = (0..linears.len()).collect();
    groups.extend(all.chunks(linears.len().div_ceil(DEPTHS).max(1)).map(<[_]>::to_vec));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_found_however_it_rises() {
        for power in [0.4, 1.0, 3.0] {
            let mut dropped = |t: f64| Ok((t / 5.0).powf(power).min(1.0));
            for (share, start) in [(0.04, 1e-4), (0.3, 1.0), (0.6, 50.0)] {
                let found = find(share, 1e-3, start, &mut dropped).unwrap();
                assert!(((found / 5.0).powf(power) - share).abs() < 1e-3, "{power} {share}");
            }
        }
        // One that nothing leaves out ends all the same.
        assert!(find(SHARE, NEAR, 1.0, &mut |_| Ok(0.0)).unwrap().is_finite());
    }

    #[test]
    fn prices_are_equal_where_ratios_say_so() {
        // Losses of c t^3 and shares of d t: the price of linear i is 3 c t^2 / (d macs).
        let linears = [(100.0, 2.0, 0.5), (400.0, 0.1, 0.3), (50.0, 9.0, 0.1)];
        let prices = linears.map(|(macs, c, d)| {
            let t: f64 = 0.8;
            let r = ratio(t, d * t, c * t.powi(3), macs);
            3.0 * c * r * r / (d * macs)
        });
        assert!(prices.iter().all(|p| (p - 1.0).abs() < 1e-9), "{prices:?}");
    }
}
