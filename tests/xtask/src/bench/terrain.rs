//! A call of the terrain student, a UNet, against ONNX Runtime: its time, and what the process grows by.

use super::Bench;
use super::minilm::VERSION;
use super::rounds::{Line, Side, Unit, alternate};
use crate::fetch;
use crate::limbeck::{json_of, number};
use crate::process::{self, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

/// Images of a call, and calls of a round.
const CALLS: [[u32; 2]; 2] = [[1, 8], [4, 4]];

/// Measures; lines of times and of memory for each number of images.
///
/// # Errors
/// The student or the peer cannot be had, or one of the sides prints something else.
pub fn measure(workspace: &Workspace, bench: &Bench) -> Result<Vec<Line>> {
    let venv = Venv::open(workspace)?;
    venv.require("bench-terrain", &format!("numpy==2.4.6\nonnxruntime=={VERSION}\n"))?;
    let model = fetch::terrain(&bench.students);
    let plan = bench.folder.join("terrain.lbk");
    bench.limbeck.compile(&model, &plan, None)?;
    let script = workspace.root().join("tests/xtask/bench/terrain_rates.py");
    let python = || {
        let mut python = venv.python();
        python.arg("-B").arg(&script);
        python
    };
    let mut lines = Vec::new();
    for [batch, runs] in CALLS {
        let inputs = bench.folder.join(format!("terrain-{batch}.npz"));
        process::run(python().arg("inputs").arg(batch.to_string()).arg(&inputs))?;
        for &threads in &bench.threads {
            let ours = || {
                let mut command = bench.limbeck.command("forward");
                command.arg(&plan).arg("--inputs").arg(&inputs);
                command.arg("--outputs").arg(bench.folder.join("terrain-out.npz"));
                command.args(["--threads", &threads.to_string()]);
                command.args(["--repeat", &(runs + 1).to_string(), "--json"]);
                let report = json_of(&mut command)?;
                let bytes = |key: &str| number(&report, &format!("memory.resident_{key}_bytes"));
                Ok(vec![number(&report, "median_ms")?, mib(bytes("peak")? - bytes("before_open")?)])
            };
            let theirs = || {
                let mut run = python();
                run.arg("run")
                    .arg(&model)
                    .arg(threads.to_string())
                    .arg(&inputs)
                    .arg(runs.to_string());
                let report = json_of(&mut run)?;
                let grown = number(&report, "peak")? - number(&report, "before")?;
                Ok(vec![number(&report, "median_ms")?, mib(grown)])
            };
            let sides = [Side::new("limbeck", ours), Side::new("f32", theirs)];
            let title = format!("terrain, {batch} images, {threads} threads");
            let all = alternate(&title, &sides, bench.rounds)?;
            let what = format!("{batch} images");
            for (at, unit) in [Unit::Milliseconds, Unit::Mebibytes].into_iter().enumerate() {
                let names = ["terrain UNet f32", what.as_str()];
                lines.push(Line::new(names, threads, unit, at, &all[0], &[&all[1]], None));
            }
        }
    }
    Ok(lines)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
