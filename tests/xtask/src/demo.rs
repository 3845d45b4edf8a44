//! `demo`: real students from checkpoint to plan to result, with what it costs, and the dial.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::fetch;
use crate::limbeck::{self, Limbeck};
use crate::process::{self, Doing, Failure, Result};
use crate::table::Table;
use crate::terrain;
use crate::workspace::Workspace;

const PROMPT: &str = "Explain in three sentences how a still makes spirit from wine.";

const SENTENCES: [&str; 6] = [
    "The cat sleeps on the warm roof.",
    "A kitten naps in the sun.",
    "Interest rates rose again this quarter.",
    "The central bank tightened its policy.",
    "Boil the pasta for nine minutes.",
    "How long should spaghetti cook?",
];

/// Fetches, compiles, generates, measures and compares.
pub fn run(workspace: &Workspace) -> Result<()> {
    let students = fetch::students(workspace)?;
    let limbeck = Limbeck::build(workspace)?;
    let text = workspace.target("demo/smollm2.lbk");
    let minilm = workspace.target("demo/minilm.lbk");
    let adaptive = workspace.target("demo/minilm-acm.lbk");

    heading("Compile: checkpoint -> plan");
    limbeck.compile(&fetch::smollm2(&students), &text, None)?;
    limbeck.compile(&fetch::minilm(&students), &minilm, None)?;
    let modules = workspace.root().join("tests/students/minilm-acm");
    limbeck.overlay(&fetch::minilm(&students), &modules, &adaptive)?;

    heading("Generate text (SmolLM2-135M-Instruct)");
    println!("> {PROMPT}\n");
    let mut run = limbeck.command("run");
    run.arg(&text).args(["--chat", "--prompt", PROMPT, "--max-tokens", "120"]);
    process::run(&mut run)?;
    println!();

    heading("Measure");
    let report = limbeck::json_of(limbeck.command("bench").arg(&text).arg("--json"))?;
    println!("{}", figures(&report)?);

    heading("Turn the dial on text (SmolLM2, whose 4-bit linears leave out small inputs)");
    let sparse = workspace.target("demo/smollm2-sparse.lbk");
    let levels = workspace.root().join("tests/students/smollm2-sparsity/levels.json");
    let mut tune = limbeck.command("tune");
    tune.arg(&text).args(["--sparsity", "--levels"]).arg(&levels).arg("-o").arg(&sparse);
    limbeck::json_of(tune.arg("--json"))?;
    println!("> {PROMPT}\n");
    println!("{}", text_dial(&limbeck, &sparse, &workspace.golden().join("text.txt"))?);
    println!(
        "Left-out inputs save multiply-adds here; time only where more than half of them are left out."
    );

    heading("Compare sentences (all-MiniLM-L6-v2)");
    let (_, vectors) = embed(&limbeck, &minilm, &[], &SENTENCES.join("\n"))?;
    println!("{}", similarities(&vectors)?);

    heading("Turn the dial (all-MiniLM-L6-v2 with Adaptive Computation Modules)");
    let data = workspace.golden().join("docstrings.txt");
    let text = fs::read_to_string(&data).doing("read", &data)?;
    let mut tune = limbeck.command("tune");
    tune.arg(&adaptive).arg("--data").arg(&data);
    tune.args(["--prices", "12", "--max-tokens", "6000"]);
    process::run(&mut tune)?;
    println!();
    println!("{}", dial(&limbeck, &adaptive, &text)?);

    heading("Make terrain of noise, in one step (a consistency UNet of 10M parameters)");
    println!("{}", terrain::run(workspace, &limbeck, &fetch::terrain(&students))?);
    Ok(())
}

/// The same prompt at falling budgets: what it answers, how fast, and how well a text is predicted.
fn text_dial(limbeck: &Limbeck, plan: &Path, text: &Path) -> Result<String> {
    let mut table = Table::new(["budget", "tokens/s", "of full compute", "perplexity", "met"]);
    for budget in ["full", "0.9", "0.8", "0.7"] {
        let mut run = limbeck.command("run");
        run.arg(plan).args(["--chat", "--prompt", PROMPT, "--max-tokens", "120"]);
        let answer = limbeck::json_of(run.args(["--temp", "0", "--budget", budget, "--json"]))?;
        let mut score = limbeck.command("perplexity");
        score.arg(plan).arg("--file").arg(text).args(["--budget", budget, "--json"]);
        let quality = limbeck::json_of(&mut score)?;
        let shown = answer["text"].as_str().unwrap_or_default();
        println!("[{budget}] {}\n", shown.trim());
        table.row([
            budget.to_owned(),
            format!("{:.0}", limbeck::number(&answer, "decode.tokens_per_second")?),
            format!("{:.3}", limbeck::number(&answer, "usage.fraction")?),
            format!("{:.2}", limbeck::number(&quality, "perplexity")?),
            answer["budget"]["met"].to_string(),
        ]);
    }
    Ok(table.markdown())
}

/// The same sentences at falling budgets: time, compute, and the cosine to the full student's
/// vectors. A first run, which is not shown, warms up.
fn dial(limbeck: &Limbeck, plan: &Path, text: &str) -> Result<String> {
    let mut table =
        Table::new(["budget", "sentences/s", "of full compute", "at the sites", "cosine", "met"]);
    let sentences = text.lines().count();
    let mut full = Vec::new();
    for (shown, budget) in
        [(false, "full"), (true, "full"), (true, "0.8"), (true, "0.6"), (true, "0.45")]
    {
        let (report, vectors) = embed(limbeck, plan, &["--budget", budget], text)?;
        if full.is_empty() {
            full.clone_from(&vectors);
        }
        if !shown {
            continue;
        }
        let sum: f64 = vectors.iter().zip(&full).map(|(a, b)| cosine(a, b)).sum();
        let seconds = limbeck::number(&report, "usage.ms")? / 1e3;
        table.row([
            budget.to_owned(),
            format!("{:.0}", sentences as f64 / seconds),
            format!("{:.3}", limbeck::number(&report, "usage.fraction")?),
            format!("{:.3}", limbeck::number(&report, "usage.site_fraction")?),
            format!("{:.4}", sum / vectors.len().max(1) as f64),
            report["budget"]["met"].to_string(),
        ]);
    }
    Ok(table.markdown())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn heading(title: &str) {
    println!("\n== {title} ==\n");
}

/// The figures of `limbeck bench --json`, one a row.
fn figures(report: &Value) -> Result<String> {
    let mut table = Table::new(["SmolLM2-135M-Instruct", "value"]);
    let rate = |phase: &str| limbeck::number(report, &format!("{phase}.tokens_per_second"));
    table.row(["prefill, tokens/s".to_owned(), format!("{:.1}", rate("prefill")?)]);
    table.row(["decode, tokens/s".to_owned(), format!("{:.1}", rate("decode")?)]);
    table.row(["load, ms".to_owned(), format!("{:.1}", limbeck::number(report, "load_ms")?)]);
    let memory = report.get("memory").and_then(Value::as_object);
    for (name, bytes) in memory.into_iter().flatten() {
        if let (Some(name), Some(bytes)) = (name.strip_suffix("_bytes"), bytes.as_f64()) {
            let name = format!("memory {}, MB", name.replace('_', " "));
            table.row([name, format!("{:.1}", bytes / 1e6)]);
        }
    }
    Ok(table.markdown())
}

/// Embeds lines with more arguments: the report, and a vector for each line.
fn embed(
    limbeck: &Limbeck,
    plan: &Path,
    arguments: &[&str],
    text: &str,
) -> Result<(Value, Vec<Vec<f64>>)> {
    let mut command = limbeck.command("embed");
    command.arg(plan).arg("--json").args(arguments);
    let mut report = limbeck::json_with_input(&mut command, text)?;
    let vectors: Vec<Vec<f64>> = serde_json::from_value(report["embeddings"].take())
        .map_err(|error| Failure::new(format!("`limbeck embed` gave no vectors: {error}")))?;
    let (given, got) = (text.lines().count(), vectors.len());
    if got == given {
        return Ok((report, vectors));
    }
    Err(Failure::new(format!("`limbeck embed` gave {got} vectors for {given} sentences")))
}

/// The cosine of each pair of sentences.
fn similarities(vectors: &[Vec<f64>]) -> Result<String> {
    let width = vectors.first().map_or(0, Vec::len);
    if width == 0 || vectors.iter().any(|vector| vector.len() != width) {
        return Err(Failure::new("`limbeck embed` gave vectors of different lengths"));
    }
    let numbers = (1..=vectors.len()).map(|number| number.to_string());
    let mut table = Table::new(std::iter::once("cosine".to_owned()).chain(numbers));
    for (number, (sentence, a)) in SENTENCES.iter().zip(vectors).enumerate() {
        let cells = vectors.iter().map(|b| format!("{:.2}", cosine(a, b)));
        table.row(std::iter::once(format!("{} {sentence}", number + 1)).chain(cells));
    }
    Ok(table.markdown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_show_rates_load_and_every_memory_figure() {
        let report = serde_json::json!({
            "prefill": {"tokens_per_second": 400.04},
            "decode": {"tokens_per_second": 120.0},
            "load_ms": 12.34,
            "memory": {"after_open_bytes": 2_000_000, "note": "x"},
        });
        let text = figures(&report).unwrap();
        for cell in ["400.0", "120.0", "12.3", "memory after open, MB", "2.0"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        assert!(figures(&serde_json::json!({})).is_err());
    }

    #[test]
    fn similarities_are_cosines_and_ragged_vectors_are_refused() {
        let vectors = vec![vec![1.0, 0.0], vec![3.0, 4.0]];
        let text = similarities(&vectors).unwrap();
        assert!(text.contains("1.00") && text.contains("0.60"), "{text}");
        assert!(similarities(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert!(similarities(&[]).is_err());
    }
}
