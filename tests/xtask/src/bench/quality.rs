//! Perplexities of one text, ours and the peer's on the same files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::llama::Llama;
use super::smollm2::Format;
use super::{Bench, CONTEXT};
use crate::limbeck::{self, number};
use crate::process::{Doing, Result};
use crate::table::Table;
use crate::workspace::Workspace;

/// Perplexities of a file in one format.
pub struct Quality {
    format: String,
    ours: f64,
    theirs: f64,
}

/// Scores every format on both sides.
pub fn measure(
    workspace: &Workspace,
    bench: &Bench,
    llama: &Llama,
    formats: &[Format],
) -> Result<Vec<Quality>> {
    let text = text(workspace, &bench.folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let mut all = Vec::new();
    for format in formats {
        eprintln!("perplexity of {}", format.name);
        let mut command = bench.limbeck.command("perplexity");
        command.arg(&format.plan).arg("--file").arg(&text);
        command.args(["--context", &CONTEXT.to_string(), "--json"]);
        let ours = number(&limbeck::json_of(&mut command)?, "perplexity")?;
        let theirs = llama.perplexity(&format.gguf, &text, CONTEXT, threads)?;
        all.push(Quality { format: format.name.clone(), ours, theirs });
    }
    Ok(all)
}

/// The texts of the goldens in one file: enough tokens for a steady figure.
fn text(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let mut all = String::new();
    for name in ["text.txt", "docstrings.txt"] {
        let path = workspace.golden().join(name);
        all += &fs::read_to_string(&path).doing("read", &path)?;
        all.push('\n');
    }
    let path = folder.join("perplexity.txt");
    fs::write(&path, all).doing("write", &path)?;
    Ok(path)
}

/// As a table.
pub fn markdown(all: &[Quality]) -> String {
    let mut table = Table::new(["perplexity", "limbeck", "llama.cpp", "difference"]);
    for Quality { format, ours, theirs } in all {
        let difference = format!("{:+.2} %", 100.0 * (ours / theirs - 1.0));
        table.row([format.clone(), format!("{ours:.4}"), format!("{theirs:.4}"), difference]);
    }
    format!(
        "Perplexity of a fixed text at context {CONTEXT}, from the same file on both sides.\n\n{}",
        table.markdown()
    )
}

/// As JSON.
pub fn as_json(all: &[Quality]) -> Value {
    let one = |q: &Quality| json!({"format": q.format, "limbeck": q.ours, "llama.cpp": q.theirs});
    all.iter().map(one).collect()
}
