//! A Qwen2 of 0.5B with random weights against llama.cpp in the faster of two types.

use super::llama::Llama;
use super::rounds::{Line, Side, alternate};
use super::{Bench, PROMPT, TOKENS, ours, smollm2};
use crate::fetch;
use crate::process::{self, Doing, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = "gguf==0.19.0\nnumpy==2.4.6\n";
/// The peer's types; ours is made of the first.
const TYPES: [&str; 2] = ["Q4_0", "Q4_K_M"];

/// Makes the student once, and measures.
pub fn measure(workspace: &Workspace, bench: &Bench, llama: &Llama) -> Result<Vec<Line>> {
    let whole = bench.folder.join("qwen2-f16.gguf");
    if !whole.is_file() {
        eprintln!("writing a Qwen2 of 0.5B with random weights");
        let venv = Venv::open(workspace)?;
        venv.require("bench-qwen2", REQUIREMENTS)?;
        let part = whole.with_extension("part");
        let mut python = venv.python();
        python.arg("-B").arg(workspace.root().join("tests/xtask/bench/qwen2_gguf.py"));
        process::run(python.arg(fetch::smollm2(&bench.students)).arg(&part))?;
        std::fs::rename(&part, &whole).doing("put in place", &whole)?;
    }
    let files = TYPES.map(|kind| bench.folder.join(format!("qwen2-{kind}.gguf")));
    for (kind, file) in TYPES.iter().zip(&files) {
        llama.quantise(&whole, file, kind, None)?;
    }
    let plan = bench.folder.join("qwen2-q4.lbk");
    bench.limbeck.compile(&files[0], &plan, Some("q4"))?;
    let mut lines = Vec::new();
    for &threads in &bench.threads {
        let ours = || ours::text(&bench.limbeck, &plan, [PROMPT, TOKENS, threads]);
        let mut sides = vec![Side::new("limbeck", ours)];
        for (kind, file) in TYPES.iter().zip(&files) {
            sides.push(Side::new(*kind, move || llama.speed(file, PROMPT, TOKENS, threads)));
        }
        let all = alternate(&format!("Qwen2-0.5B, {threads} threads"), &sides, bench.rounds)?;
        lines.extend(smollm2::compared("Qwen2-0.5B q4", threads, &all[0], &all[1..]));
    }
    Ok(lines)
}
