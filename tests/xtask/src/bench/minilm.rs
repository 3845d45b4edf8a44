//! MiniLM-L6 against ONNX Runtime: f32, and 8 bits against its dynamic int8.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::rounds::{Line, Side, Unit, alternate};
use super::{Bench, ours};
use crate::fetch;
use crate::limbeck::{json_of, number};
use crate::process::{self, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

/// The peer's version.
pub const VERSION: &str = "1.32.0";
const REQUIREMENTS: &str = "numpy==2.4.6\nonnx==1.23.2\nonnxruntime==1.32.0\nsafetensors==0.8.0\n";
/// Batch, tokens, and calls of ours in a round.
const SHAPES: [[u32; 3]; 3] = [[1, 16, 300], [1, 128, 80], [8, 128, 12]];
/// Our values, the peer's, the ceiling of ours, and the least cosine of a token's vector to the
/// peer's f32.
const PAIRS: [(&str, &str, &str, f64); 2] =
    [("f32", "f32", "f32", 0.9999), ("q8", "int8", "int8", 0.95)];
/// Ways to hand the peer its graph.
const GRAPHS: [&str; 2] = ["plain", "fused"];

/// Makes plans and graphs, holds their results against each other, and measures. Gives the lines
/// and the cosines.
pub fn measure(workspace: &Workspace, bench: &Bench) -> Result<(Vec<Line>, Value)> {
    let venv = Venv::open(workspace)?;
    venv.require("bench-minilm", REQUIREMENTS)?;
    let minilm = fetch::minilm(&bench.students);
    let script = |name: &str| workspace.root().join("tests/xtask/bench").join(name);
    let mut python = venv.python();
    python.arg("-B").arg(script("minilm_onnx.py")).arg(&minilm).arg(&bench.folder);
    process::quiet(&mut python)?;
    let graph = |name: &str, kind: &str| bench.folder.join(format!("minilm-{name}-{kind}.onnx"));
    let mut plans = Vec::new();
    for (quant, ..) in PAIRS {
        let plan = bench.folder.join(format!("minilm-{quant}.lbk"));
        bench.limbeck.compile(&minilm, &plan, Some(quant))?;
        plans.push(plan);
    }
    let runner = script("onnx_rates.py");
    let cosines = agree(&venv, bench, &runner, &graph("plain", "f32"), &plans)?;

    let mut lines = Vec::new();
    for &threads in &bench.threads {
        for ((quant, theirs, ceiling, _), plan) in PAIRS.iter().zip(&plans) {
            let ours = || -> Result<Vec<f64>> {
                let mut figures = Vec::new();
                for [batch, tokens, repeats] in SHAPES {
                    let call = [batch, tokens, repeats, threads];
                    figures.extend(ours::encoder(&bench.limbeck, plan, ceiling, call)?);
                }
                Ok(figures)
            };
            let mut sides = vec![Side::new("limbeck", ours)];
            for name in GRAPHS {
                let (file, venv, runner) = (graph(name, theirs), &venv, &runner);
                let peer = format!("{name} {theirs}");
                sides.push(Side::new(peer, move || rates(venv, runner, &file, threads)));
            }
            let title = format!("MiniLM-L6 {quant}, {threads} threads");
            let all = alternate(&title, &sides, bench.rounds)?;
            let peers: Vec<_> = all[1..].iter().collect();
            for (at, [batch, tokens, _]) in SHAPES.iter().enumerate() {
                let names = [format!("MiniLM-L6 {quant}"), format!("{batch} x {tokens}")];
                let names = [names[0].as_str(), names[1].as_str()];
                // A time and a share for each shape.
                let share = Some((2 * at + 1, *ceiling));
                let unit = Unit::Milliseconds;
                lines.push(Line::new(names, threads, unit, 2 * at, &all[0], &peers, share));
            }
        }
    }
    Ok((lines, cosines))
}

/// The peer's milliseconds a call at each shape, in the places of ours.
fn rates(venv: &Venv, runner: &Path, graph: &Path, threads: u32) -> Result<Vec<f64>> {
    let mut python = venv.python();
    python.arg("-B").arg(runner).arg("time").arg(graph).arg(threads.to_string());
    let shapes = SHAPES.map(|[batch, tokens, _]| format!("{batch}x{tokens}"));
    let report = json_of(python.args(&shapes))?;
    let mut figures = Vec::new();
    for shape in &shapes {
        figures.extend([number(&report, shape)?, f64::NAN]);
    }
    Ok(figures)
}

/// The least cosine, over tokens, of each side's last hidden state to the peer's in f32.
fn agree(
    venv: &Venv,
    bench: &Bench,
    runner: &Path,
    graph: &Path,
    plans: &[PathBuf],
) -> Result<Value> {
    let inputs = bench.folder.join("minilm-inputs.npz");
    let mut all = serde_json::Map::new();
    let mut python = venv.python();
    process::run(python.arg("-B").arg(runner).arg("inputs").arg(&inputs))?;
    for ((quant, theirs, _, least), plan) in PAIRS.iter().zip(plans) {
        let outputs = bench.folder.join(format!("minilm-{quant}-outputs.npz"));
        let mut command = bench.limbeck.command("forward");
        command.arg(plan).arg("--inputs").arg(&inputs).arg("--outputs").arg(&outputs);
        process::run(&mut command)?;
        let quantised = bench.folder.join(format!("minilm-plain-{theirs}.onnx"));
        let mut python = venv.python();
        python.arg("-B").arg(runner).arg("agree").args([graph, &quantised, &inputs, &outputs]);
        let report = json_of(&mut python)?;
        let cosine = number(&report, "limbeck")?;
        if cosine < *least {
            return Err(Failure::new(format!(
                "MiniLM in {quant} has a token whose cosine to ONNX Runtime's f32 is {cosine:.5}, \
                 below {least}"
            )));
        }
        all.insert((*quant).to_owned(), report);
    }
    Ok(Value::Object(all))
}
