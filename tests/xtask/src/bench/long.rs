//! Decoding after a long prompt, against llama.cpp with and without flash attention.

use super::llama::Llama;
use super::rounds::{Line, Side, Unit, alternate};
use super::smollm2::Format;
use super::{Bench, DECODE, SHARE, TOKENS, ours};
use crate::process::Result;

/// Positions in the cache before decoding.
const DEPTH: u32 = 4096;

/// Measures; keys and values are kept in f16 on both sides.
pub fn measure(bench: &Bench, llama: &Llama, format: &Format) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for &threads in &bench.threads {
        let mut sides = vec![Side::new("limbeck", || {
            ours::text(&bench.limbeck, &format.plan, [DEPTH, TOKENS, threads])
        })];
        for (name, flash) in [("plain attention", false), ("flash attention", true)] {
            // Its prefill is not asked for; the place is kept.
            sides.push(Side::new(name, move || {
                Ok(vec![f64::NAN, llama.decode(&format.gguf, TOKENS, DEPTH, threads, flash)?])
            }));
        }
        let all = alternate(&format!("depth {DEPTH}, {threads} threads"), &sides, bench.rounds)?;
        let peers: Vec<_> = all[1..].iter().collect();
        let case = format!("SmolLM2-135M {}", format.name);
        let what = format!("decode at {DEPTH}");
        let share = Some((SHARE, "read"));
        let unit = Unit::TokensPerSecond;
        lines.push(Line::new([&case, &what], threads, unit, DECODE, &all[0], &peers, share));
    }
    Ok(lines)
}
