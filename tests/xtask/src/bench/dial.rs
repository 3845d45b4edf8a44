//! Whether time follows cost, as `bench` reports it: adaptive ops with a part of their compute
//! against all of it.

use serde_json::Value;

use crate::limbeck::{self, number};
use crate::process::{Failure, Result};
use crate::table::Table;
use crate::workspace::Workspace;

/// Runs the kernels' own measurement at a thread count: one object per case.
///
/// # Errors
/// It does not build, or prints something else.
pub fn measure(workspace: &Workspace, threads: u32) -> Result<Vec<Value>> {
    let mut cargo = limbeck::cargo(workspace);
    cargo.args(["run", "--release", "--quiet", "--package", "limbeck-kernels"]);
    cargo.args(["--example", "adaptive_rates", "--", &threads.to_string(), "--json"]);
    match limbeck::json_of(&mut cargo)? {
        Value::Array(mut cases) => {
            for case in &mut cases {
                case["threads"] = threads.into();
            }
            Ok(cases)
        }
        other => Err(Failure::new(format!("adaptive_rates printed no array: {other}"))),
    }
}

/// The cases as a table.
///
/// # Errors
/// A case without its numbers.
pub fn markdown(cases: &[Value]) -> Result<String> {
    let mut table = Table::new([
        "part of the compute",
        "share",
        "values",
        "threads",
        "tokens",
        "time",
        "choosing",
    ]);
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        table.row([
            text("what"),
            format!("{:.2}", number(case, "share")?),
            text("values"),
            format!("{}", number(case, "threads")?),
            format!("{}", number(case, "tokens")?),
            format!("{:.3}", number(case, "ratio")?),
            format!("{:.2} %", 100.0 * number(case, "choosing")?),
        ]);
    }
    Ok(format!(
        "Time of an adaptive op with a part of its compute over its time with everything, medians of \
         alternating passes, and what choosing takes of the full time.\n\n{}",
        table.markdown()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_runs_exists() {
        let example = "runtime/kernels/examples/adaptive_rates/main.rs";
        assert!(Workspace::locate().root().join(example).is_file());
    }

    #[test]
    fn cases_become_rows_and_a_number_that_is_missing_is_named() {
        let mut case = serde_json::json!({
            "what": "learners: half", "share": 0.5, "values": "q4", "threads": 2, "tokens": 128,
            "ratio": 0.5432, "choosing": 0.0123,
        });
        let text = markdown(std::slice::from_ref(&case)).unwrap();
        for cell in ["learners: half", "0.543", "1.23 %", "128"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        case["ratio"] = Value::Null;
        assert!(markdown(&[case]).unwrap_err().to_string().contains("`ratio`"));
    }
}
