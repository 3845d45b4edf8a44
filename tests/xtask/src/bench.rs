//! `bench`: Limbeck against llama.cpp on the same student, machine, threads and run, and adaptive ops
//! against themselves. Rounds alternate between the two sides, and ratios are of medians. Writes
//! `target/bench/report.md` and `report.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};

use crate::dial;
use crate::fetch;
use crate::limbeck::{self, Limbeck};
use crate::peer::{self, Peer, Speed};
use crate::process::{self, Doing, Result};
use crate::table::Table;
use crate::workspace::Workspace;

const PROMPT: u32 = 512;
const TOKENS: u32 = 64;
const CONTEXT: u32 = 512;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Rounds per student format and thread count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Thread counts to measure
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<u32>,
    /// Student formats to measure, of: q4_1, q4_0, q8_0, f16
    #[arg(long, value_delimiter = ',', default_value = "q4_1,q4_0", value_parser = ["q4_1", "q4_0", "q8_0", "f16"])]
    formats: Vec<String>,
    /// Leave out the perplexity of each pack format
    #[arg(long)]
    no_perplexity: bool,
    /// Measure adaptive ops alone: nothing is fetched, and the peer is not built
    #[arg(long)]
    dial: bool,
}

/// One format of the student: the same GGUF file for both sides.
struct Case {
    format: String,
    gguf: PathBuf,
    plan: PathBuf,
}

/// All rounds of one case at one thread count.
struct Measured {
    format: String,
    threads: u32,
    ours: Vec<Speed>,
    theirs: Vec<Speed>,
}

/// The perplexity of a fixed text, ours by pack format and the peer's on the same GGUF.
struct Quality {
    ours: Vec<(&'static str, f64)>,
    theirs: f64,
}

/// Builds both sides, measures and reports.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.target("bench");
    process::make_dir(&folder)?;
    let mut dial = Vec::new();
    for &threads in &options.threads {
        eprintln!("adaptive ops, {threads} threads");
        dial.extend(dial::measure(workspace, threads)?);
    }
    let mut text = dial::markdown(&dial)?;
    let mut data = json!({"machine": machine(), "dial": dial});
    if !options.dial {
        let (all, quality) = against_peer(workspace, options, &folder)?;
        text = format!("{}\n{text}", markdown(&all, quality.as_ref(), options.rounds));
        let peer = as_json(&all, quality.as_ref());
        for (key, value) in peer.as_object().into_iter().flatten() {
            data[key] = value.clone();
        }
    }
    println!("{text}");
    let report = folder.join("report.md");
    fs::write(&report, &text).doing("write", &report)?;
    let report = folder.join("report.json");
    fs::write(&report, format!("{data:#}\n")).doing("write", &report)?;
    println!("written to {} and report.json", folder.join("report.md").display());
    Ok(())
}

fn against_peer(
    workspace: &Workspace,
    options: &Options,
    folder: &Path,
) -> Result<(Vec<Measured>, Option<Quality>)> {
    let students = fetch::students(workspace)?;
    let peer = Peer::build(workspace)?;
    let limbeck = Limbeck::build(workspace)?;
    let source = fetch::smollm2(&students);
    let cases: Vec<Case> = options
        .formats
        .iter()
        .map(|format| case(&limbeck, &peer, &source, folder, format))
        .collect::<Result<_>>()?;
    let mut all = Vec::new();
    for case in &cases {
        for &threads in &options.threads {
            all.push(measure(&limbeck, &peer, case, threads, options.rounds)?);
        }
    }
    let quality = if options.no_perplexity {
        None
    } else {
        let text = workspace.golden().join("text.txt");
        Some(quality(&limbeck, &peer, &source, folder, &text)?)
    };
    Ok((all, quality))
}

/// Makes the student in one format for both sides.
fn case(
    limbeck: &Limbeck,
    peer: &Peer,
    source: &Path,
    folder: &Path,
    format: &str,
) -> Result<Case> {
    let (kind, embedding, quant) = match format {
        "f16" => ("F16", "f16", "f16"),
        "q8_0" => ("Q8_0", "q8_0", "q8"),
        "q4_0" => ("Q4_0", "q8_0", "q4"),
        // The published file itself.
        _ => ("Q4_1", "q8_0", "q4"),
    };
    let gguf = if kind == "Q4_1" {
        source.to_owned()
    } else {
        let gguf = folder.join(format!("smollm2-{format}.gguf"));
        peer.quantise(source, &gguf, kind, embedding)?;
        gguf
    };
    let plan = folder.join(format!("smollm2-{format}.lbk"));
    limbeck.compile(&gguf, &plan, Some(quant))?;
    Ok(Case { format: format.to_owned(), gguf, plan })
}

fn measure(
    limbeck: &Limbeck,
    peer: &Peer,
    case: &Case,
    threads: u32,
    rounds: u32,
) -> Result<Measured> {
    let format = &case.format;
    let mut measured =
        Measured { format: format.clone(), threads, ours: Vec::new(), theirs: Vec::new() };
    for round in 1..=rounds {
        let (mut our, mut their) = (None, None);
        // Who goes first changes, so that neither always runs on the warmer machine.
        for ours_now in [round % 2 == 1, round % 2 == 0] {
            if ours_now {
                our = Some(our_speed(limbeck, &case.plan, threads)?);
            } else {
                their = Some(peer.speed(&case.gguf, PROMPT, TOKENS, threads)?);
            }
        }
        if let (Some(our), Some(their)) = (our, their) {
            eprintln!(
                "{format}, {threads} threads, round {round} of {rounds}: prefill {:.0} against {:.0}, decode {:.1} \
                 against {:.1} tokens/s",
                our.prefill, their.prefill, our.decode, their.decode
            );
            measured.ours.push(our);
            measured.theirs.push(their);
        }
    }
    Ok(measured)
}

fn our_speed(limbeck: &Limbeck, plan: &Path, threads: u32) -> Result<Speed> {
    let mut command = limbeck.command("bench");
    command.arg(plan).args(["-p", &PROMPT.to_string(), "-n", &TOKENS.to_string()]);
    command.args(["--threads", &threads.to_string(), "-r", "1", "--json"]);
    let report = limbeck::json_of(&mut command)?;
    Ok(Speed {
        prefill: limbeck::number(&report, "prefill.tokens_per_second")?,
        decode: limbeck::number(&report, "decode.tokens_per_second")?,
    })
}

fn quality(
    limbeck: &Limbeck,
    peer: &Peer,
    source: &Path,
    folder: &Path,
    text: &Path,
) -> Result<Quality> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let theirs = peer.perplexity(source, text, CONTEXT, threads)?;
    let mut ours = Vec::new();
    for quant in ["f32", "f16", "q8", "q4"] {
        let plan = folder.join(format!("smollm2-quality-{quant}.lbk"));
        limbeck.compile(source, &plan, Some(quant))?;
        let mut command: Command = limbeck.command("perplexity");
        command.arg(&plan).arg("--file").arg(text);
        command.args(["--context", &CONTEXT.to_string(), "--json"]);
        let report = limbeck::json_of(&mut command)?;
        ours.push((quant, limbeck::number(&report, "perplexity")?));
        let _ = fs::remove_file(&plan);
    }
    Ok(Quality { ours, theirs })
}

fn markdown(all: &[Measured], quality: Option<&Quality>, rounds: u32) -> String {
    let mut speed = Table::new([
        "SmolLM2-135M",
        "threads",
        "phase",
        "limbeck",
        "llama.cpp",
        "ratio",
        "rounds' ratios",
    ]);
    for measured in all {
        for (phase, of) in PHASES {
            let Compared { ours, theirs, ratio, least, most } = compare(measured, of);
            speed.row([
                measured.format.clone(),
                measured.threads.to_string(),
                phase.to_owned(),
                format!("{ours:.1}"),
                format!("{theirs:.1}"),
                format!("{ratio:.2}"),
                format!("{least:.2}-{most:.2}"),
            ]);
        }
    }
    let mut text = format!(
        "Tokens per second, median of {rounds} alternating rounds: prefill of {PROMPT} tokens, decode \
         of {TOKENS} after it. Peer: llama.cpp as in llama-cpp-python {}. {}.\n\n{}",
        peer::VERSION,
        machine(),
        speed.markdown()
    );
    if let Some(quality) = quality {
        let mut table = Table::new(["perplexity", "value", "against f32", "against llama.cpp"]);
        let base = quality.ours.first().map_or(f64::NAN, |(_, value)| *value);
        let percent = |value: f64, base: f64| format!("{:+.2} %", 100.0 * (value / base - 1.0));
        for &(quant, value) in &quality.ours {
            let cells = [percent(value, base), percent(value, quality.theirs)];
            table.row([[quant.to_owned(), format!("{value:.4}")], cells].concat());
        }
        let theirs = format!("{:.4}", quality.theirs);
        table.row(["llama.cpp".to_owned(), theirs, percent(quality.theirs, base)]);
        text += &format!(
            "\nPerplexity of a fixed text at context {CONTEXT}, from the Q4_1 file.\n\n{}",
            table.markdown()
        );
    }
    text
}

fn as_json(all: &[Measured], quality: Option<&Quality>) -> Value {
    let rounds = |speeds: &[Speed]| -> Vec<Value> {
        let speeds = speeds.iter();
        speeds.map(|speed| json!({"prefill": speed.prefill, "decode": speed.decode})).collect()
    };
    let speed: Vec<Value> = all
        .iter()
        .map(|measured| {
            let ratio = |of| compare(measured, of).ratio;
            json!({
                "format": measured.format,
                "threads": measured.threads,
                "prefill_ratio": ratio(PHASES[0].1),
                "decode_ratio": ratio(PHASES[1].1),
                "limbeck": rounds(&measured.ours),
                "llama.cpp": rounds(&measured.theirs),
            })
        })
        .collect();
    let quality = quality.map(|quality| {
        let ours: serde_json::Map<String, Value> =
            quality.ours.iter().map(|(quant, value)| ((*quant).to_owned(), json!(value))).collect();
        json!({"limbeck": ours, "llama.cpp": quality.theirs})
    });
    json!({
        "peer": format!("llama-cpp-python {}", peer::VERSION),
        "prompt": PROMPT,
        "tokens": TOKENS,
        "context": CONTEXT,
        "speed": speed,
        "perplexity": quality,
    })
}

type Phase = fn(&Speed) -> f64;
const PHASES: [(&str, Phase); 2] =
    [("prefill", |speed| speed.prefill), ("decode", |speed| speed.decode)];

/// Medians of both sides, their ratio, and the least and greatest ratio of a single round.
struct Compared {
    ours: f64,
    theirs: f64,
    ratio: f64,
    least: f64,
    most: f64,
}

fn compare(measured: &Measured, of: Phase) -> Compared {
    let values = |speeds: &[Speed]| speeds.iter().map(of).collect::<Vec<f64>>();
    let (ours, theirs) = (values(&measured.ours), values(&measured.theirs));
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(our, their)| our / their).collect();
    let (ours, theirs) = (median(ours), median(theirs));
    Compared {
        ours,
        theirs,
        ratio: ours / theirs,
        least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        most: ratios.iter().copied().fold(0.0, f64::max),
    }
}

/// The median; the mean of the middle two where the count is even; NaN of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The processor's name and how many threads it runs, as far as the system says.
fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    format!("{}, {threads} hardware threads", cpu.as_deref().unwrap_or("unnamed processor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_rounds_are_paired() {
        let speeds = |rates: [f64; 3]| rates.map(|rate| Speed { prefill: rate, decode: 1.0 });
        let measured = Measured {
            format: "q4_0".into(),
            threads: 1,
            ours: speeds([30.0, 10.0, 20.0]).into(),
            theirs: speeds([15.0, 10.0, 5.0]).into(),
        };
        let compared = compare(&measured, PHASES[0].1);
        assert_eq!((compared.ours, compared.theirs, compared.ratio), (20.0, 10.0, 2.0));
        assert_eq!((compared.least, compared.most), (1.0, 4.0));
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
        let text = markdown(&[measured], None, 3);
        assert!(text.contains("2.00"), "{text}");
        assert!(text.contains("1.00-4.00"), "{text}");
    }
}
