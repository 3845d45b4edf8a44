//! Prints the rate of each row of the kernel table that reads a weight: bytes of weights and
//! multiply-adds (counted as two operations) per second, at one row and at many.
//!
//! `cargo run --release -p limbeck-kernels --example kernel_rates -- [threads] [name part] [share of
//! inputs that are not 0]`

use limbeck_kernels::{
    KernelOp, Kernels, LinearArgs, LinearScratch, Packed, Pool, kernel_table, linear, pack_rows,
};
use limbeck_plan::Activation;
use std::time::{Duration, Instant};

/// Bytes that the weights of one measurement take together, so that they come from memory.
const SPREAD: usize = 96 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|t| t.parse().ok()).unwrap_or(1);
    let part = arguments.next().unwrap_or_default();
    let share: f32 = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let pool = Pool::new(threads);
    println!("{:24} {:>4} {:>11} {:>9} {:>9} {:>9}", "kernel", "m", "n x k", "us", "GB/s", "GOP/s");
    for row in kernel_table() {
        let Some(format) = row.format() else { continue };
        let linears = [KernelOp::Linear, KernelOp::Channels];
        if !linears.contains(&row.op()) || !row.available() || !row.name().contains(&part) {
            continue;
        }
        let Ok(kernels) = Kernels::with_isa(row.isa().name()) else {
            continue;
        };
        for (n, k) in [(576, 1536), (2048, 2048)] {
            let Some(bytes) = format.byte_len(n, k) else {
                continue;
            };
            let values: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
            let mut packed = Vec::new();
            if let Err(error) = pack_rows(format, k, &values, &mut packed) {
                println!("{}: {error}", row.name());
                continue;
            }
            for (m, spread) in [(1, SPREAD), (1, 0), (8, SPREAD), (8, 0), (128, 0)] {
                let copies = (spread / bytes).max(1);
                let weights = packed.repeat(copies);
                let random = |i: usize| (i as f32 * 0.618_034).fract();
                let value = |i: usize| if random(i) < share { 0.5 } else { 0.0 };
                let x: Vec<f32> = (0..m * k).map(value).collect();
                let mut out = vec![0.0; m * n];
                let mut scratch = LinearScratch::default();
                scratch.reserve(m, k);
                let mut call = |copy: usize| {
                    let Ok(w) = Packed::new(format, n, k, &weights[copy * bytes..][..bytes]) else {
                        return;
                    };
                    let args = LinearArgs {
                        x: &x,
                        norm: None,
                        w,
                        bias: None,
                        activation: Activation::Identity,
                        gated: false,
                        residual: None,
                        precise: false,
                        out: &mut out,
                    };
                    if let Err(error) = linear(&kernels, &pool, &mut scratch, args) {
                        println!("{}: {error}", row.name());
                    }
                };
                let time = best_time(copies, &mut call);
                println!(
                    "{:24} {m:>4} {:>11} {:>9.1} {:>9.2} {:>9.1}{}",
                    row.name(),
                    format!("{n} x {k}"),
                    time * 1e6,
                    bytes as f64 / time / 1e9,
                    2.0 * (m * n * k) as f64 / time / 1e9,
                    if copies > 1 { "  from memory" } else { "" },
                );
            }
        }
    }
}

/// The best mean time of a call over one round of all copies, for about 0.2 s.
fn best_time(copies: usize, call: &mut dyn FnMut(usize)) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(200) {
        let round = Instant::now();
        (0..copies).for_each(&mut *call);
        best = best.min(round.elapsed().as_secs_f64() / copies as f64);
    }
    best
}
