//! Whether times per token are kept: a decoder of the 0.5B class with random weights and adaptive MLPs.

use std::path::Path;

use serde_json::Value;

use crate::limbeck::{self, Limbeck, number};
use crate::process::{self, Failure, Result};
use crate::table::Table;
use crate::venv::Venv;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = "numpy==2.4.6\n";

/// Makes the student once and measures: an object for each number of threads.
///
/// # Errors
/// The student or the measuring program cannot be had, or it prints something else.
pub fn measure(workspace: &Workspace, folder: &Path, threads: &[u32]) -> Result<Vec<Value>> {
    let plan = folder.join("acm-q4.lbk");
    if !plan.is_file() {
        eprintln!("writing an adaptive decoder of the 0.5B class with random weights");
        let venv = Venv::open(workspace)?;
        venv.require("bench-latency", REQUIREMENTS)?;
        let checkpoint = folder.join("acm");
        let script = workspace.root().join("tests/students/acm_decoder.py");
        process::run(venv.python().arg("-B").arg(script).arg(&checkpoint))?;
        Limbeck::build(workspace)?.compile(&checkpoint, &plan, Some("q4"))?;
    }
    let measure = |threads: &u32| {
        eprintln!("times per token, {threads} threads");
        let mut cargo = limbeck::cargo(workspace);
        cargo.args(["run", "--release", "--quiet", "--package", "limbeck-tests"]);
        cargo.args(["--example", "latency_budgets", "--"]);
        limbeck::json_of(cargo.arg(&plan).arg(threads.to_string()))
    };
    threads.iter().map(measure).collect()
}

/// A row for each target of each number of threads.
///
/// # Errors
/// A measurement without its numbers.
pub fn markdown(all: &[Value]) -> Result<String> {
    let mut table = Table::new([
        "time per token",
        "threads",
        "target, ms",
        "median, ms",
        "off",
        "at 95 %, ms",
        "fraction",
        "unmet",
    ]);
    for run in all {
        let threads = number(run, "threads")?;
        let mut row = |what: &str, part: &Value| -> Result<()> {
            let text = |key: &str| Ok(format!("{:.2}", number(part, key)?));
            table.row([
                what.to_owned(),
                format!("{threads}"),
                text("target_ms")?,
                text("median_ms")?,
                format!("{:+.1} %", 100.0 * number(part, "off")?),
                text("p95_ms")?,
                text("fraction")?,
                part["unmet"].as_str().unwrap_or_default().to_owned(),
            ]);
            Ok(())
        };
        let targets = run["targets"].as_array();
        for target in targets.ok_or_else(|| Failure::new(format!("it has no targets: {run}")))? {
            row("alone", &target["alone"])?;
            row("beside a busy process", &target["beside"])?;
            row("alone again", &target["again"])?;
        }
        row("below what can be reached", &run["infeasible"])?;
    }
    let mut text = table.markdown();
    for run in all {
        text += &format!(
            "\n{} threads: {:.2} ms with all learners, {:.2} with the least (fraction {:.2}), {:.2} with these \
             beside the busy process.\n",
            number(run, "threads")?,
            number(run, "full_ms")?,
            number(run, "least_ms")?,
            number(run, "least_fraction")?,
            number(run, "least_beside_ms")?,
        );
    }
    Ok(format!(
        "Times per token of an adaptive decoder of the 0.5B class in q4 under a latency, each after 20 tokens to \
         settle in; the busy process keeps half of the machine's threads.\n\n{text}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_runs_exists() {
        for file in ["tests/examples/latency_budgets.rs", "tests/students/acm_decoder.py"] {
            assert!(Workspace::locate().root().join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn targets_become_rows_and_a_number_that_is_missing_is_named() {
        let part = |off: f64| {
            serde_json::json!({
                "target_ms": 10.0, "median_ms": 10.0 * (1.0 + off), "off": off, "p95_ms": 12.5,
                "fraction": 0.4321, "unmet": null,
            })
        };
        let mut below = part(1.0);
        below["unmet"] = "time".into();
        let mut run = serde_json::json!({
            "threads": 2, "full_ms": 16.0, "least_ms": 8.0, "least_fraction": 0.19, "least_beside_ms": 9.5,
            "targets": [{"alone": part(0.01), "beside": part(-0.05), "again": part(0.0)}],
            "infeasible": below,
        });
        let text = markdown(std::slice::from_ref(&run)).unwrap();
        for cell in ["+1.0 %", "-5.0 %", "12.50", "0.43", "time", "9.50 with these"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        run["targets"][0]["beside"]["off"] = Value::Null;
        assert!(markdown(&[run]).unwrap_err().to_string().contains("`off`"));
    }
}
