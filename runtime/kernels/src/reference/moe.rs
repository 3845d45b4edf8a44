//! Mixtures of experts and weighted sums, row by row.

use super::linear::{Products, linear};
use crate::adaptive::{MixArgs, MoeMlpArgs};
use crate::error::Error;
use crate::linear::LinearArgs;
use limbeck_plan::{Activation, ExpertWeights, MixRule};
use std::collections::BTreeSet;

/// One token's experts in the order of their ranks, with their probabilities.
type Ranked = Vec<(usize, f64)>;

/// See [`crate::moe_mlp`].
///
/// # Errors
/// As there.
pub fn moe_mlp(args: MoeMlpArgs<'_>, products: Products) -> Result<usize, Error> {
    args.check()?;
    let params = args.params;
    let mut kept: Vec<Ranked> = Vec::new();
    for (token, logits) in args.logits.chunks_exact(params.experts).enumerate() {
        let mut ranked = ranked(logits);
        let forced = args.forced.map_or(-1, |f| f[token]);
        let charge = f64::from(args.charge());
        let best = ranked[0].1;
        let stays = |(_, p): &&(usize, f64)| p.is_nan() || p / best >= charge;
        let free = 1 + ranked[1..params.top_k].iter().take_while(stays).count();
        let choice = usize::try_from(forced).unwrap_or(free);
        args.choice[token] = choice as i32;
        ranked.truncate(choice);
        kept.push(ranked);
    }
    if let Some(capacity) = params.capacity {
        let room = capacity.room(kept.len(), params.experts, params.top_k);
        drop_beyond(room, &mut kept, params.top_k);
    }
    let used: BTreeSet<usize> = kept.iter().flatten().map(|(expert, _)| *expert).collect();
    let m = args.expert_rows().1;
    for (token, ranked) in kept.iter().enumerate() {
        let sum: f64 = ranked.iter().map(|(_, p)| p).sum();
        let mut y = vec![0.0; m];
        for (expert, p) in ranked {
            let weight = match params.weights {
                ExpertWeights::Renormalised => p / sum,
                ExpertWeights::Probabilities => *p,
            };
            let result = expert_result(&args, products, token, *expert)?;
            y.iter_mut().zip(result).for_each(|(y, v)| *y += weight * f64::from(v));
        }
        for (i, (out, y)) in args.out[token * m..][..m].iter_mut().zip(y).enumerate() {
            *out = (y + args.residual.map_or(0.0, |r| f64::from(r[token * m + i]))) as f32;
        }
    }
    Ok(used.len())
}

fn ranked(logits: &[f32]) -> Ranked {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f64> = logits.iter().map(|l| (f64::from(*l) - f64::from(most)).exp()).collect();
    let sum: f64 = parts.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Stable, so that equals stay in the order of their indices.
    order.sort_by(|a, b| {
        let (a, b) = (logits[*a], logits[*b]);
        b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
    order.into_iter().map(|expert| (expert, parts[expert] / sum)).collect()
}

fn drop_beyond(room: usize, kept: &mut [Ranked], top_k: usize) {
    let mut load = std::collections::BTreeMap::new();
    let mut survivors: Vec<Ranked> = vec![Vec::new(); kept.len()];
    for rank in 0..top_k {
        for (token, ranked) in kept.iter().enumerate() {
            if let Some((expert, p)) = ranked.get(rank) {
                let load: &mut usize = load.entry(*expert).or_default();
                *load += 1;
                if *load <= room {
                    survivors[token].push((*expert, *p));
                }
            }
        }
    }
    kept.clone_from_slice(&survivors);
}

fn expert_result(
    args: &MoeMlpArgs<'_>,
    products: Products,
    token: usize,
    expert: usize,
) -> Result<Vec<f32>, Error> {
    let ((h1, m), cols) = (args.expert_rows(), args.w1.cols());
    let (mut hidden, mut y) = (vec![0.0; args.w2.cols()], vec![0.0; m]);
    let linears = LinearArgs {
        x: &args.x[token * cols..][..cols],
        norm: None,
        factors: None,
        w: args.w1.row_range(expert * h1..(expert + 1) * h1)?,
        bias: None,
        activation: args.params.activation,
        gated: args.params.gated,
        precise: false,
        residual: None,
        out: &mut hidden,
    };
    linear(linears, products)?;
    let down = LinearArgs {
        x: &hidden,
        norm: None,
        factors: None,
        w: args.w2.row_range(expert * m..(expert + 1) * m)?,
        bias: None,
        activation: Activation::Identity,
        gated: false,
        precise: false,
        residual: None,
        out: &mut y,
    };
    linear(down, products)?;
    Ok(y)
}

/// See [`crate::mix`].
///
/// # Errors
/// As there.
pub fn mix(args: MixArgs<'_>) -> Result<(), Error> {
    let cols = args.check()?;
    let count = args.params.parts;
    for (row, logits) in args.logits.chunks_exact(count).enumerate() {
        let exps: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = exps.iter().sum();
        for at in row * cols..(row + 1) * cols {
            let parts = exps.iter().zip(args.parts).map(|(e, part)| {
                let weight = match args.params.rule {
                    MixRule::Sigmoid => 1.0 - 1.0 / (1.0 + e),
                    MixRule::Softmax => e / sum,
                };
                weight * f64::from(part[at])
            });
            let y: f64 = parts.sum();
            args.out[at] = (y + args.residual.map_or(0.0, |r| f64::from(r[at]))) as f32;
        }
    }
    Ok(())
}
