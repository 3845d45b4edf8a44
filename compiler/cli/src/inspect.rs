//! `limbeck inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;

use indicatif::HumanBytes;
use limbeck::Interface;
use limbeck::plan::{Condition, OperandKind, Plan, Task};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::calibration;
use crate::memory;
use crate::output::{Failure, at_file, print, print_json};

pub fn execute(args: InspectArgs) -> Result<(), Failure> {
    let bytes = memory::map(&args.plan)?;
    let plan = at_file(&args.plan, Plan::parse(&bytes))?;
    if args.verify {
        at_file(&args.plan, plan.verify(&bytes))?;
    }
    if args.json {
        return print_json(&to_json(&plan, args.verify));
    }
    print(&to_text(&plan, args.verify))
}

fn to_json(plan: &Plan, verified: bool) -> Value {
    let sections = plan.sections().iter().map(|s| {
        json!({
            "kind": s.kind.name(),
            "offset": s.offset,
            "length": s.len,
            "checksum": format!("{:016x}", s.checksum),
        })
    });
    let (major, minor) = plan.version();
    let forward = Interface::of(plan);
    let names =
        |tensors: &[(String, String)]| -> BTreeMap<_, _> { tensors.iter().cloned().collect() };
    json!({
        "version": format!("{major}.{minor}"),
        "hash": format!("{:016x}", plan.hash()),
        "bytes": plan.file_len(),
        "verified": verified,
        "manifest": plan.manifest(),
        "sections": sections.collect::<Vec<_>>(),
        "program": plan.program(),
        "forward": {"entry": forward.entry, "inputs": names(&forward.inputs), "outputs": names(&forward.outputs)},
        "sites": plan.program().sites,
        "calibration": plan.calibration(),
    })
}

fn to_text(plan: &Plan, verified: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(plan, verified, &mut out);
    out
}

fn write_text(plan: &Plan, verified: bool, out: &mut String) -> std::fmt::Result {
    let m = plan.manifest();
    let (major, minor) = plan.version();
    let task = serde_json::to_value(m.task).unwrap_or_default();
    writeln!(
        out,
        "student       {} ({}, task {})",
        m.student,
        m.architecture,
        task.as_str().unwrap_or("")
    )?;
    writeln!(
        out,
        "plan          format {major}.{minor}, hash {:016x}, {}",
        plan.hash(),
        HumanBytes(plan.file_len() as u64)
    )?;
    match m.task {
        Task::Classify => writeln!(out, "image         {} tokens", m.context_length)?,
        Task::Tensors | Task::Diffuse => {}
        _ => {
            writeln!(out, "context       {} tokens, vocabulary {}", m.context_length, m.vocab_size)?
        }
    }
    if m.embedding_size > 0 {
        writeln!(out, "embedding     {} elements", m.embedding_size)?;
    }
    writeln!(out, "licence       {}", m.licence.as_deref().unwrap_or("not stated"))?;
    let p = &m.provenance;
    writeln!(
        out,
        "made from     {} ({}), --quant {}, by {}",
        p.source, p.format, p.quantisation, p.compiler
    )?;
    writeln!(out, "chat template {}", if m.chat_template.is_some() { "yes" } else { "no" })?;
    let sites = &plan.program().sites;
    match sites.len() {
        0 => writeln!(out, "sites         none (a dense student)")?,
        n => writeln!(out, "sites         {n}")?,
    }
    writeln!(
        out,
        "checksums     {}",
        if verified { "verified, weights included" } else { "metadata verified" }
    )?;
    writeln!(out, "\nsections")?;
    for s in plan.sections() {
        writeln!(
            out,
            "  {:10} at {:>10}  {:>12}",
            s.kind.name(),
            s.offset,
            HumanBytes(s.len as u64)
        )?;
    }
    let mut formats: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for w in &plan.program().weights {
        let entry = formats.entry(w.format.to_string()).or_default();
        entry.0 += 1;
        entry.1 += w.bytes;
    }
    writeln!(out, "\nweights")?;
    for (format, (count, bytes)) in formats {
        writeln!(out, "  {format:12} {count:5}  {:>12}", HumanBytes(bytes))?;
    }
    for entry in &plan.program().entries {
        writeln!(out, "\nentry {:?}: {} steps", entry.name, entry.steps().count())?;
        for (kind, name) in [(OperandKind::Input, "input"), (OperandKind::Output, "output")] {
            for (_, operand) in entry.operands_of(kind) {
                writeln!(out, "  {name:6} {} {}", operand.name, operand.fact)?;
            }
        }
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        entry.steps().for_each(|s| *ops.entry(s.op.name()).or_default() += 1);
        for (op, count) in ops {
            writeln!(out, "  {count:5} x {op}")?;
        }
    }
    let forward = Interface::of(plan);
    writeln!(out, "\nforward (the names that `limbeck forward` takes and gives)")?;
    writeln!(out, "  takes  {}", forward.listed_inputs())?;
    writeln!(out, "  gives  {}", forward.listed_outputs())?;
    if !sites.is_empty() {
        writeln!(out, "\nsites")?;
    }
    for site in sites {
        let (name, first, last) = (&site.name, site.first, site.last());
        writeln!(out, "  {name:24} choices {first}..={last}, weight {:.3}", site.weight)?;
    }
    if let Some(sampler) = &plan.program().sampler {
        let steps: Vec<String> = sampler.counts().map(|n| n.to_string()).collect();
        writeln!(out, "\nsampler {}: {} steps", sampler.rule, steps.join(", "))?;
        for Condition { name, default, least, most } in &sampler.conditions {
            let bound = |v: &Option<f64>, open: &str| v.map_or(open.into(), |v| v.to_string());
            let (least, most) = (bound(least, "-inf"), bound(most, "inf"));
            let default = default.map_or("must be set".into(), |v| format!("{v} where not set"));
            writeln!(out, "  --set {name}: {least} to {most}, {default}")?;
        }
    }
    if let Some(table) = plan.calibration() {
        write!(out, "\ncalibration\n{}", calibration::table(table))?;
    }
    let states = plan.program().states.len();
    if states > 0 {
        writeln!(out, "\nstates: {states} (keys and values, appended per token)")?;
    }
    Ok(())
}
