//! What a decode step of SmolLM2 through C takes beside the same step in Rust, in one process.

use std::path::Path;

use serde_json::Value;

use super::rounds::median;
use crate::fetch;
use crate::limbeck::{self, Limbeck, number};
use crate::process::Result;
use crate::table::Table;
use crate::workspace::Workspace;

/// Steps each way in a round.
const STEPS: &str = "300";

/// Measures in each number of threads; an object for each round.
///
/// # Errors
/// The student or the measuring program cannot be had, or it prints something else.
pub fn measure(
    workspace: &Workspace,
    folder: &Path,
    threads: &[u32],
    rounds: u32,
) -> Result<Vec<Value>> {
    let student = fetch::smollm2(&fetch::students(workspace)?);
    let plan = folder.join("smollm2-abi.lbk");
    Limbeck::build(workspace)?.compile(&student, &plan, Some("q4"))?;
    let mut all = Vec::new();
    for threads in threads {
        for round in 1..=rounds {
            eprintln!("steps through C, {threads} threads, round {round} of {rounds}");
            let mut cargo = limbeck::cargo(workspace);
            cargo.args(["bench", "--quiet", "--package", "limbeck-ffi", "--bench", "overhead"]);
            cargo.arg("--").arg(&plan).args([&threads.to_string(), STEPS]);
            all.push(limbeck::json_of(&mut cargo)?);
        }
    }
    Ok(all)
}

/// A row for each number of threads: medians of the rounds'.
///
/// # Errors
/// A round without its numbers.
pub fn markdown(all: &[Value]) -> Result<String> {
    let mut table = Table::new(["threads", "a step in Rust, ms", "through C, ms", "more"]);
    for rounds in all.chunk_by(|a, b| a["threads"] == b["threads"]) {
        let of = |key: &str| -> Result<f64> {
            Ok(median(rounds.iter().map(|round| number(round, key)).collect::<Result<_>>()?))
        };
        table.row([
            format!("{}", of("threads")?),
            format!("{:.3}", of("rust_ns")? / 1e6),
            format!("{:.3}", of("c_ns")? / 1e6),
            format!("{:+.2} %", 100.0 * (of("ratio")? - 1.0)),
        ]);
    }
    Ok(format!(
        "Decode steps of SmolLM2 in 4 bits in Rust and through C, by turns in one process: medians, and \
         that of the ratios of steps beside one another.\n\n{}",
        table.markdown()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_a_number_of_threads_become_a_row() {
        let round = |threads: u32, ratio: f64| serde_json::json!({"threads": threads, "rust_ns": 8e6, "c_ns": 8.1e6, "ratio": ratio});
        let all = [round(1, 1.003), round(1, 1.001), round(1, 1.2), round(2, 0.99)];
        let text = markdown(&all).unwrap();
        for cell in ["+0.30 %", "-1.00 %", "8.000", "8.100"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        let missing = serde_json::json!({"threads": 1});
        assert!(markdown(&[missing]).unwrap_err().to_string().contains("rust_ns"));
    }
}
