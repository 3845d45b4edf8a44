//! Prints the time of a mixture of 4 experts (hidden 1024, inner 2816) with one expert per token
//! against two, the router included, at one token and at 128; and what the routing alone takes.
//!
//! `cargo run --release -p limbeck-kernels --example moe_rates -- [threads] [rounds]`

use limbeck_kernels::{
    Error, Kernels, LinearArgs, LinearScratch, MoeMlpArgs, MoeScratch, Packed, Pool, linear,
    moe_mlp, pack_rows,
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

/// Within -1..1, by a linear congruential generator.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    let number = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(number).collect()
}

fn pack(format: PackFormat, cols: usize, rows: usize, seed: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for tile in (0..rows).step_by(16) {
        pack_rows(format, cols, &numbers(16.min(rows - tile) * cols, seed + tile), &mut bytes)?;
    }
    Ok(bytes)
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

    /// All layers on these tokens, each of which keeps `kept` experts: the time of the routers and
    /// of everything.
    fn pass(&mut self, x: &[f32], kept: i32) -> Result<(Duration, Duration), Error> {
        let tokens = x.len() / HIDDEN;
        let (mut logits, mut out) = (vec![0.0; tokens * EXPERTS], vec![0.0; tokens * HIDDEN]);
        let (mut choice, forced) = (vec![0; tokens], vec![kept; tokens]);
        let mut router = Duration::ZERO;
        let start = Instant::now();
        for layer in &self.layers {
            let first = Instant::now();
            let args = LinearArgs {
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
        Ok((router, start.elapsed()))
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().ok());
    let threads = arguments.next().flatten().unwrap_or(1);
    let rounds = arguments.next().flatten().unwrap_or(9);
    println!("values tokens   top-1 ms   top-2 ms   ratio   router");
    for (values, layers) in [(Values::Q4, 16), (Values::F32, 4)] {
        let mut bench = Bench::new(threads, values, layers)?;
        for tokens in [1, 128] {
            let x = numbers(tokens * HIDDEN, 3);
            let (mut one, mut two, mut router) = (Vec::new(), Vec::new(), Vec::new());
            let repeat = if tokens == 1 { 5 } else { 1 };
            for _ in 0..rounds * repeat {
                one.push(bench.pass(&x, 1)?.1);
                let (routing, time) = bench.pass(&x, 2)?;
                router.push(routing);
                two.push(time);
            }
            let (one, two, router) = (median(&mut one), median(&mut two), median(&mut router));
            let name = values.name();
            let (ratio, share) = (one / two, router / two * 100.0);
            println!("{name:6} {tokens:6} {one:10.3} {two:10.3} {ratio:7.3} {share:7.2}%");
        }
    }
    Ok(())
}
