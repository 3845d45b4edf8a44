//! A mixture of 4 experts (hidden 1024, inner 2816) with one expert per token against two, the router
//! included; and what the router alone takes.

use crate::common::{Case, Timed, numbers, pack, time};
use limbeck_kernels::{
    Error, Kernels, LinearArgs, LinearScratch, MoeMlpArgs, MoeScratch, Packed, Pool, linear,
    moe_mlp,
};
use limbeck_plan::{Activation, ExpertWeights, MoeMlp, PackFormat, Values};
use std::time::{Duration, Instant};

const HIDDEN: usize = 1024;
const INNER: usize = 2816;
const EXPERTS: usize = 4;

/// One layer's weights.
struct Layer {
    router: Vec<u8>,
    w1: Vec<u8>,
    w2: Vec<u8>,
}

struct Bench {
    kernels: Kernels,
    pool: Pool,
    format: PackFormat,
    layers: Vec<Layer>,
    params: MoeMlp,
    linear: LinearScratch,
    moe: MoeScratch,
}

impl Bench {
    fn new(threads: usize, values: Values, layers: usize) -> Result<Bench, Error> {
        let format = PackFormat::linear(values);
        let layer = |i| -> Result<Layer, Error> {
            Ok(Layer {
                router: pack(PackFormat::linear(Values::F32), HIDDEN, EXPERTS, i)?,
                w1: pack(format, HIDDEN, EXPERTS * 2 * INNER, i)?,
                w2: pack(format, INNER, EXPERTS * HIDDEN, i)?,
            })
        };
        Ok(Bench {
            kernels: Kernels::detect(),
            pool: Pool::new(threads),
            format,
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            params: MoeMlp {
                site: 0,
                experts: EXPERTS,
                top_k: 2,
                activation: Activation::Silu,
                gated: true,
                weights: ExpertWeights::Renormalised,
                capacity: None,
                residual: false,
            },
            linear: LinearScratch::default(),
            moe: MoeScratch::default(),
        })
    }

    /// All layers on these tokens, each of which keeps `kept` experts: the time of everything, and
    /// of the routers.
    fn pass(&mut self, x: &[f32], kept: i32) -> Result<(Duration, Duration), Error> {
        let tokens = x.len() / HIDDEN;
        let (mut logits, mut out) = (vec![0.0; tokens * EXPERTS], vec![0.0; tokens * HIDDEN]);
        let (mut choice, forced) = (vec![0; tokens], vec![kept; tokens]);
        let mut router = Duration::ZERO;
        let start = Instant::now();
        for layer in &self.layers {
            let first = Instant::now();
            let args = LinearArgs {
                factors: None,
                x,
                norm: None,
                w: Packed::new(PackFormat::linear(Values::F32), EXPERTS, HIDDEN, &layer.router)?,
                bias: None,
                activation: Activation::Identity,
                gated: false,
                residual: None,
                precise: false,
                out: &mut logits,
            };
            linear(&self.kernels, &self.pool, &mut self.linear, args)?;
            router += first.elapsed();
            let args = MoeMlpArgs {
                params: &self.params,
                x,
                logits: &logits,
                w1: Packed::new(self.format, EXPERTS * 2 * INNER, HIDDEN, &layer.w1)?,
                w2: Packed::new(self.format, EXPERTS * HIDDEN, INNER, &layer.w2)?,
                residual: None,
                weight: 1.0,
                price: 0.0,
                forced: Some(&forced),
                choice: &mut choice,
                out: &mut out,
            };
            moe_mlp(&self.kernels, &self.pool, &mut self.moe, args)?;
        }
        Ok((start.elapsed(), router))
    }
}

/// One expert of two for each token.
pub fn cases(threads: usize, rounds: usize, cases: &mut Vec<Case>) -> Result<(), Error> {
    for (values, layers) in [(Values::Q4, 16), (Values::F32, 4)] {
        let mut bench = Bench::new(threads, values, layers)?;
        for tokens in [1, 128] {
            let x = numbers(tokens * HIDDEN, 3);
            let Timed { part, full, overhead } =
                time(rounds, tokens, &mut |full| bench.pass(&x, if full { 2 } else { 1 }))?;
            let what = "experts: 1 of 2";
            cases.push(Case { what, share: 0.5, values, tokens, part, full, overhead });
        }
    }
    Ok(())
}
