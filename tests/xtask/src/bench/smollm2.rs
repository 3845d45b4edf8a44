//! SmolLM2-135M against llama.cpp: the same file for both, in each format.

use std::path::{Path, PathBuf};

use super::llama::Llama;
use super::rounds::{Line, Series, Side, Unit, alternate};
use super::{Bench, DECODE, PREFILL, PROMPT, SHARE, TOKENS, ours};
use crate::process::Result;

/// One format of the student: the same GGUF file for both sides.
pub struct Format {
    /// As `--formats` takes it.
    pub name: String,
    /// The file.
    pub gguf: PathBuf,
    /// Made of it.
    pub plan: PathBuf,
}

/// Makes the student in one format for both sides.
pub fn format(bench: &Bench, llama: &Llama, source: &Path, name: &str) -> Result<Format> {
    let (kind, embedding, quant) = match name {
        "f16" => ("F16", "f16", "f16"),
        "q8_0" => ("Q8_0", "q8_0", "q8"),
        "q4_0" => ("Q4_0", "q8_0", "q4"),
        // The published file itself.
        _ => ("Q4_1", "q8_0", "q4"),
    };
    let gguf = if kind == "Q4_1" {
        source.to_owned()
    } else {
        let gguf = bench.folder.join(format!("smollm2-{name}.gguf"));
        llama.quantise(source, &gguf, kind, Some(embedding))?;
        gguf
    };
    let plan = bench.folder.join(format!("smollm2-{name}.lbk"));
    bench.limbeck.compile(&gguf, &plan, Some(quant))?;
    Ok(Format { name: name.to_owned(), gguf, plan })
}

/// All formats side by side: each against the peer in the same one, and 4 bits against the peer's
/// prefill in f16.
pub fn measure(bench: &Bench, llama: &Llama, formats: &[Format]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for &threads in &bench.threads {
        let sides: Vec<Side<'_>> = formats
            .iter()
            .flat_map(|format| {
                let ours =
                    move || ours::text(&bench.limbeck, &format.plan, [PROMPT, TOKENS, threads]);
                let theirs = move || llama.speed(&format.gguf, PROMPT, TOKENS, threads);
                [Side::new("limbeck", ours), Side::new(format.name.clone(), theirs)]
            })
            .collect();
        let title = format!("SmolLM2-135M, {threads} threads");
        let all = alternate(&title, &sides, bench.rounds)?;
        for (pair, format) in all.chunks_exact(2).zip(formats) {
            let case = format!("SmolLM2-135M {}", format.name);
            lines.extend(compared(&case, threads, &pair[0], &pair[1..]));
            let half = all.iter().find(|series| series.name == "f16");
            if let (true, Some(half)) = (format.name.starts_with("q4"), half) {
                let case = format!("{case} : f16");
                let unit = Unit::TokensPerSecond;
                lines.push(Line::new(
                    [&case, "prefill"],
                    threads,
                    unit,
                    PREFILL,
                    &pair[0],
                    &[half],
                    None,
                ));
            }
        }
    }
    Ok(lines)
}

/// Prefill and decode of a text student, each against the faster of the peer's.
pub fn compared(case: &str, threads: u32, ours: &Series, peers: &[Series]) -> [Line; 2] {
    let peers: Vec<&Series> = peers.iter().collect();
    let line = |what, at, share| {
        Line::new([case, what], threads, Unit::TokensPerSecond, at, ours, &peers, share)
    };
    [line("prefill", PREFILL, None), line("decode", DECODE, Some((SHARE, "read")))]
}
