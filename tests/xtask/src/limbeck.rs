//! The `limbeck` program as xtask uses it: built in release mode, run, its JSON read.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{self, Failure, Result};
use crate::workspace::Workspace;

/// The release build of the command line.
pub struct Limbeck {
    program: PathBuf,
}

impl Limbeck {
    /// Builds the program and asks cargo where it put it.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        eprintln!("building limbeck");
        let mut cargo = cargo(workspace);
        cargo.args(["build", "--release", "--package", "limbeck-cli", "--bin", "limbeck"]);
        cargo.arg("--message-format=json-render-diagnostics");
        let messages = process::stdout_of(&mut cargo)?;
        let program = messages.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let is_ours = message["target"]["name"] == "limbeck";
            message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
        });
        let program = program.ok_or_else(|| Failure::new("cargo built no program `limbeck`"))?;
        Ok(Limbeck { program })
    }

    /// The program with a subcommand, ready for arguments.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(subcommand);
        command
    }

    /// Compiles a checkpoint to a plan; `quant` as the command line takes it.
    pub fn compile(&self, checkpoint: &Path, plan: &Path, quant: Option<&str>) -> Result<()> {
        let mut command = self.compilation(checkpoint, plan)?;
        if let Some(quant) = quant {
            command.args(["--quant", quant]);
        }
        process::run(&mut command)
    }

    /// Compiles a checkpoint with a folder's tensors over it.
    pub fn overlay(&self, checkpoint: &Path, overlay: &Path, plan: &Path) -> Result<()> {
        process::run(self.compilation(checkpoint, plan)?.arg("--with").arg(overlay))
    }

    fn compilation(&self, checkpoint: &Path, plan: &Path) -> Result<Command> {
        if let Some(folder) = plan.parent() {
            process::make_dir(folder)?;
        }
        let mut command = self.command("compile");
        command.arg(checkpoint).arg("-o").arg(plan);
        Ok(command)
    }
}

/// Cargo, in the workspace's root.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace.root());
    cargo
}

/// Runs a command that prints one JSON value and reads it.
pub fn json_of(command: &mut Command) -> Result<Value> {
    let text = process::stdout_of(command)?;
    parsed(command, &text)
}

fn parsed(command: &Command, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        let line = process::line(command);
        Failure::new(format!("`{line}` did not print one JSON value: {error}"))
    })
}

/// [`json_of`] of a command that reads `input`.
pub fn json_with_input(command: &mut Command, input: &str) -> Result<Value> {
    let text = process::stdout_with_input(command, input)?;
    parsed(command, &text)
}

/// A number inside a JSON value, by a dotted path such as `decode.tokens_per_second`.
pub fn number(value: &Value, path: &str) -> Result<f64> {
    let found = path.split('.').try_fold(value, |value, key| value.get(key));
    found
        .and_then(Value::as_f64)
        .ok_or_else(|| Failure::new(format!("the JSON has no number `{path}`: {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_path_or_named_when_missing() {
        let value = serde_json::json!({"decode": {"tokens_per_second": 12.5}, "load_ms": "fast"});
        assert_eq!(number(&value, "decode.tokens_per_second").unwrap(), 12.5);
        for path in ["decode.tokens", "load_ms", "prefill.tokens_per_second"] {
            let failure = number(&value, path).unwrap_err().to_string();
            assert!(failure.contains(&format!("`{path}`")), "{failure}");
        }
    }

    #[test]
    fn a_program_that_prints_no_json_is_named() {
        let failure = json_of(Command::new("echo").arg("hello")).unwrap_err().to_string();
        assert!(failure.starts_with("`echo hello` did not print one JSON value"), "{failure}");
    }
}
