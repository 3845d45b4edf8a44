//! `limbeck compile`.

use std::collections::BTreeMap;
use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use limbeck_compiler::{Options, Prefer, Report, SegmentReport, compile, summary};
use serde_json::json;

use crate::args::CompileArgs;
use crate::output::{Failure, note, print_json, say};

pub fn execute(args: CompileArgs) -> Result<(), Failure> {
    let mut fixed = BTreeMap::new();
    for (name, value) in args.fix {
        if let Some(before) = fixed.insert(name.clone(), value) {
            let message = format!("--fix gives {name:?} twice, {before} and {value}");
            return Err(Failure::usage(message));
        }
    }
    let options = Options {
        precise: args.precise,
        overlays: args.with,
        ignored_keys: args.ignore_key.into_iter().collect(),
        moe_capacity: args.moe_capacity,
        image_size: args.image_size,
        fixed,
        prefer: if args.prefer == "onnx" { Prefer::Onnx } else { Prefer::Native },
        onnx_for: args.onnx_for,
        sampler: args.sampler,
        passes: !args.no_passes,
        fold_gates: args.fold_gates,
        ..Options::new(args.source, args.output, args.quant)
    };
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} weights  {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let report = compile(&options, &mut |done, of, name| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_owned());
    });
    bar.finish_and_clear();
    let report = report?;
    let seconds = start.elapsed().as_secs_f64();
    report.notes.iter().for_each(note);
    if !report.segments.is_empty() {
        let segments = report.segments.len();
        let nodes: usize = report.segments.iter().map(SegmentReport::nodes).sum();
        let why = summary(report.segments.iter().flat_map(|s| &s.reasons));
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (nodes, segments) = (count(nodes, "node"), count(segments, "segment"));
        note(format!("ONNX Runtime computes {nodes} in {segments}: {why}"));
    }
    if args.json {
        return print_json(&to_json(&options, &report, seconds));
    }
    say(format_args!(
        "{} ({}): {} steps, {} of weights, {seconds:.1} s",
        report.student,
        report.architecture,
        report.steps,
        HumanBytes(report.packing.bytes),
    ));
    for (values, count, bytes, error) in &report.packing.formats {
        let error = match error.relative() {
            0.0 => "exact".into(),
            e => format!("relative error {e:.2e} where converted"),
        };
        let (name, bytes) = (values.name(), HumanBytes(*bytes));
        say(format_args!("  {name:4} {count:4} weights {bytes:>12}  {error}"));
    }
    let (output, bytes) = (options.output.display(), HumanBytes(report.file_bytes));
    say(format_args!("wrote {output} ({bytes})"));
    Ok(())
}

fn to_json(options: &Options, report: &Report, seconds: f64) -> serde_json::Value {
    let formats = report.packing.formats.iter().map(|(values, count, bytes, error)| {
        json!({
            "values": values.name(),
            "weights": count,
            "bytes": bytes,
            "relative_error": error.relative(),
        })
    });
    json!({
        "plan": options.output.display().to_string(),
        "student": report.student,
        "architecture": report.architecture,
        "quant": options.quant.to_string(),
        "precise": options.precise,
        "steps": report.steps,
        "notes": report.notes,
        "onnx_segments": report.segments.iter().map(|s| json!({
            "entry": s.entry,
            "step": s.step,
            "nodes": s.nodes(),
            "reasons": s.reasons.iter().map(|r| json!({
                "reason": r.reason,
                "nodes": r.nodes,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "weight_bytes": report.packing.bytes,
        "file_bytes": report.file_bytes,
        "seconds": seconds,
        "formats": formats.collect::<Vec<_>>(),
    })
}
