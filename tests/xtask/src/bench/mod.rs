//! `bench`: Limbeck against llama.cpp and ONNX Runtime on the same students, machine, threads and
//! run, adaptive ops against themselves, times per token against what was asked for, and steps through C
//! against those in Rust. Sides take turns, and ratios are of medians. Writes
//! `target/bench/report.md` and `report.json`.

mod abi;
mod dial;
mod latency;
mod llama;
mod long;
mod minilm;
mod ours;
mod quality;
mod qwen2;
mod report;
mod rounds;
mod smollm2;
mod terrain;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::fetch;
use crate::limbeck::Limbeck;
use crate::process::{self, Doing, Result};
use crate::workspace::Workspace;
use llama::Llama;
use smollm2::Format;

const PROMPT: u32 = 512;
const TOKENS: u32 = 64;
const CONTEXT: u32 = 512;
/// Places of a text student's figures.
const PREFILL: usize = 0;
const DECODE: usize = 1;
const SHARE: usize = 2;
/// The format of the long context's student.
const LONG_FORMAT: &str = "q4_0";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Rounds per case and thread count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Thread counts to measure, at most as many as the machine has
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = thread_count)]
    threads: Vec<u32>,
    /// Cases to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "smollm2,qwen2,minilm,terrain,long,dial,latency,abi"
    )]
    cases: Vec<Case>,
    /// Formats of SmolLM2 to measure, of: q4_1, q4_0, q8_0, f16
    #[arg(long, value_delimiter = ',', default_value = "q4_1,q4_0,q8_0,f16", value_parser = ["q4_1", "q4_0", "q8_0", "f16"])]
    formats: Vec<String>,
    /// Leave out the perplexity of each format of SmolLM2
    #[arg(long)]
    no_perplexity: bool,
    /// Measure adaptive ops alone: nothing is fetched, and no peer is built
    #[arg(long, conflicts_with = "cases")]
    dial: bool,
    /// Measure steps through C alone: no peer is built
    #[arg(long, conflicts_with_all = ["cases", "dial"])]
    abi: bool,
}

fn thread_count(text: &str) -> std::result::Result<u32, String> {
    let most = std::thread::available_parallelism().map_or(1, |n| n.get());
    match text.parse::<u32>() {
        Ok(count) if count >= 1 && count as usize <= most => Ok(count),
        _ => Err(format!("not a number from 1 to {most}, the threads of this machine")),
    }
}

impl Options {
    fn cases(&self) -> &[Case] {
        match (self.dial, self.abi) {
            (true, _) => &[Case::Dial],
            (_, true) => &[Case::Abi],
            _ => &self.cases,
        }
    }
}

/// What is measured against what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// SmolLM2-135M against llama.cpp in the same formats
    Smollm2,
    /// A Qwen2 of 0.5B with random weights against llama.cpp
    Qwen2,
    /// MiniLM-L6 against ONNX Runtime
    Minilm,
    /// The terrain UNet against ONNX Runtime
    Terrain,
    /// SmolLM2-135M after 4,096 tokens against llama.cpp
    Long,
    /// Adaptive ops against themselves
    Dial,
    /// Whether an adaptive decoder of 0.5B keeps times per token
    Latency,
    /// Decode steps of SmolLM2-135M through C against the same in Rust
    Abi,
}

/// What all cases need.
pub struct Bench {
    limbeck: Limbeck,
    students: PathBuf,
    folder: PathBuf,
    threads: Vec<u32>,
    rounds: u32,
}

/// Builds what the cases need, measures and reports.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.target("bench");
    process::make_dir(&folder)?;
    let machine = report::machine();
    let (mut text, mut data) = (Vec::new(), json!({"machine": machine}));
    let cases = options.cases();
    if cases.iter().any(|case| !matches!(case, Case::Dial | Case::Latency | Case::Abi)) {
        text.extend(against_peers(workspace, options, folder.clone(), &mut data)?);
        // What took an hour is there where something after it fails.
        write(&folder, &text.join("\n"), &data)?;
    }
    if cases.contains(&Case::Dial) {
        let mut all = Vec::new();
        for &threads in &options.threads {
            eprintln!("adaptive ops, {threads} threads");
            all.extend(dial::measure(workspace, threads)?);
        }
        text.push(dial::markdown(&all)?);
        data["dial"] = all.into();
    }
    if cases.contains(&Case::Latency) {
        let measured = latency::measure(workspace, &folder, &options.threads)?;
        text.push(latency::markdown(&measured)?);
        data["latency"] = measured.into();
    }
    if cases.contains(&Case::Abi) {
        let measured = abi::measure(workspace, &folder, &options.threads, options.rounds)?;
        text.push(abi::markdown(&measured)?);
        data["abi"] = measured.into();
    }
    let text = format!("{machine}.\n\n{}", text.join("\n"));
    println!("{text}");
    write(&folder, &text, &data)?;
    println!("written to {} and report.json", folder.join("report.md").display());
    Ok(())
}

/// Writes both reports.
fn write(folder: &Path, text: &str, data: &Value) -> Result<()> {
    let report = folder.join("report.md");
    fs::write(&report, text).doing("write", &report)?;
    let report = folder.join("report.json");
    fs::write(&report, format!("{data:#}\n")).doing("write", &report)
}

/// The report's parts for people; those for programs go into `data`.
fn against_peers(
    workspace: &Workspace,
    options: &Options,
    folder: PathBuf,
    data: &mut Value,
) -> Result<Vec<String>> {
    let bench = Bench {
        students: fetch::students(workspace)?,
        limbeck: Limbeck::build(workspace)?,
        folder,
        threads: options.threads.clone(),
        rounds: options.rounds,
    };
    let wanted = |case| options.cases.contains(&case);
    let (mut lines, mut more) = (Vec::new(), Vec::new());
    if [Case::Smollm2, Case::Qwen2, Case::Long].into_iter().any(wanted) {
        let llama = Llama::build(workspace)?;
        let source = fetch::smollm2(&bench.students);
        let format = |name: &str| smollm2::format(&bench, &llama, &source, name);
        if wanted(Case::Smollm2) {
            let names = options.formats.iter();
            let formats: Vec<Format> = names.map(|name| format(name)).collect::<Result<_>>()?;
            lines.extend(smollm2::measure(&bench, &llama, &formats)?);
            if !options.no_perplexity {
                let quality = quality::measure(workspace, &bench, &llama, &formats)?;
                more.push(quality::markdown(&quality));
                data["perplexity"] = quality::as_json(&quality);
            }
        }
        if wanted(Case::Qwen2) {
            lines.extend(qwen2::measure(workspace, &bench, &llama)?);
        }
        if wanted(Case::Long) {
            lines.extend(long::measure(&bench, &llama, &format(LONG_FORMAT)?)?);
        }
    }
    if wanted(Case::Minilm) {
        let (measured, cosines) = minilm::measure(workspace, &bench)?;
        lines.extend(measured);
        more.push(report::cosines(&cosines));
        data["cosines"] = cosines;
    }
    if wanted(Case::Terrain) {
        lines.extend(terrain::measure(workspace, &bench)?);
    }
    data["rounds"] = bench.rounds.into();
    data["lines"] = lines.iter().map(rounds::Line::json).collect();
    data["peers"] = json!({"llama-cpp-python": llama::VERSION, "onnxruntime": minilm::VERSION});
    let mut text = vec![report::markdown(&lines, bench.rounds)];
    text.extend(more);
    Ok(text)
}
