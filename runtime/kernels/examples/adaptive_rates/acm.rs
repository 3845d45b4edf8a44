//! An ACM FFN (hidden 768, inner 3072, 4 learners) with half and a quarter of its learners against
//! all, at one token and at 128 of mixed choices; and what the gate and the sorting take.

use crate::common::{Case, Timed, numbers, pack, time};
use limbeck_kernels::{
    AdaptiveMlpArgs, AdaptiveScratch, ChooseArgs, Error, Kernels, Packed, Pool, adaptive_mlp,
    choose,
};
use limbeck_plan::{Activation, GateTransform, PackFormat, Values};
use std::time::{Duration, Instant};

const HIDDEN: usize = 768;
const INNER: usize = 3072;
const LEARNERS: usize = 4;
const COSTS: [f64; LEARNERS + 1] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Choices that tokens cycle through: a half and a quarter of the learners in the mean. The first is
/// what a single token takes.
const HALF: [i32; 5] = [2, 0, 4, 1, 3];
const QUARTER: [i32; 4] = [1, 0, 2, 1];

/// One layer's weights.
struct Layer {
    gate: Vec<u8>,
    w1: Vec<u8>,
    w2: Vec<u8>,
}

struct Bench {
    kernels: Kernels,
    pool: Pool,
    format: PackFormat,
    layers: Vec<Layer>,
    scratch: AdaptiveScratch,
}

impl Bench {
    fn new(threads: usize, values: Values, layers: usize) -> Result<Bench, Error> {
        let format = PackFormat::linear(values);
        let layer = |i| -> Result<Layer, Error> {
            Ok(Layer {
                gate: numbers((LEARNERS + 1) * HIDDEN, i)
                    .into_iter()
                    .flat_map(f32::to_le_bytes)
                    .collect(),
                w1: pack(format, HIDDEN, INNER, i)?,
                w2: pack(format, INNER, HIDDEN, i + 1)?,
            })
        };
        Ok(Bench {
            kernels: Kernels::detect(),
            pool: Pool::new(threads),
            format,
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            scratch: AdaptiveScratch::default(),
        })
    }

    /// All layers on these tokens with these choices.
    fn pass(&mut self, x: &[f32], choice: &[i32], out: &mut [f32]) -> Result<Duration, Error> {
        let start = Instant::now();
        for layer in &self.layers {
            let args = AdaptiveMlpArgs {
                x,
                choice,
                w1: Packed::new(self.format, INNER, HIDDEN, &layer.w1)?,
                b1: None,
                w2: Packed::new(self.format, HIDDEN, INNER, &layer.w2)?,
                out_bias: None,
                residual: None,
                learners: LEARNERS,
                activation: Activation::Gelu,
                gated: false,
                out,
            };
            adaptive_mlp(&self.kernels, &self.pool, &mut self.scratch, args)?;
        }
        Ok(start.elapsed())
    }

    /// The gates of all layers, and their MLPs without a learner: sorting, and a result of zeros.
    fn overhead(&mut self, x: &[f32], out: &mut [f32]) -> Result<Duration, Error> {
        let tokens = x.len() / HIDDEN;
        let (bias, mut chosen) = ([0.0; LEARNERS + 1], vec![0; tokens]);
        let sorting = self.pass(x, &vec![0; tokens], out)?;
        let start = Instant::now();
        for layer in &self.layers {
            let gate = PackFormat::F32_ROW;
            let args = ChooseArgs {
                x,
                gate: Packed::new(gate, LEARNERS + 1, HIDDEN, &layer.gate)?,
                bias: &bias,
                transform: GateTransform::NegExp2,
                first: 0,
                costs: &COSTS,
                weight: 1.0,
                price: 0.01,
                out: &mut chosen,
            };
            choose(&self.kernels, &self.pool, &mut self.scratch, args)?;
        }
        Ok(sorting + start.elapsed())
    }
}

/// Half and a quarter of the learners.
pub fn cases(threads: usize, rounds: usize, cases: &mut Vec<Case>) -> Result<(), Error> {
    for (values, layers) in [(Values::Q4, 40), (Values::F32, 5)] {
        let mut bench = Bench::new(threads, values, layers)?;
        for tokens in [1, 128] {
            let x = numbers(tokens * HIDDEN, 3);
            let mut out = vec![0.0; x.len()];
            let parts: [(_, _, &[i32]); 2] =
                [("learners: half", 0.5, &HALF), ("learners: a quarter", 0.25, &QUARTER)];
            for (what, share, cycle) in parts {
                let choice = |full: bool| -> Vec<i32> {
                    let of =
                        |at: usize| if full { LEARNERS as i32 } else { cycle[at % cycle.len()] };
                    (0..tokens).map(of).collect()
                };
                let (some, all) = (choice(false), choice(true));
                let Timed { part, full, overhead } = time(rounds, tokens, &mut |full| {
                    let choice = if full { &all } else { &some };
                    Ok((bench.pass(&x, choice, &mut out)?, bench.overhead(&x, &mut out)?))
                })?;
                cases.push(Case { what, share, values, tokens, part, full, overhead });
            }
        }
    }
    Ok(())
}
