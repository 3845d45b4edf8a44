//! `limbeck bench`: prefill, decode, load time and memory.

use std::path::Path;
use std::time::Instant;

use limbeck::plan::Task;
use limbeck::{EncoderInput, Model, SessionOptions, Status, Usage, Wanted, Work};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::memory;
use crate::output::{Failure, check_result, print_json, print_line, write_result};

pub fn execute(args: BenchArgs) -> Result<(), Failure> {
    args.trace.as_deref().map_or(Ok(()), check_result)?;
    let start = Instant::now();
    let model = args.plan.open()?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let open_bytes = memory::resident().map(|m| m.0);
    let (mut report, usage) = match model.manifest().task {
        Task::Text => text(&args, &model)?,
        Task::Embed => encoder(&args, &model)?,
        Task::Classify => classifier(&args, &model)?,
    };
    let weights: u64 = model.plan().program().weights.iter().map(|w| w.bytes).sum();
    let peak = memory::resident().map(|m| m.1);
    report["load_ms"] = json!(load_ms);
    report["memory"]["weights_bytes"] = json!(weights);
    report["memory"]["resident_after_open_bytes"] = json!(open_bytes);
    report["memory"]["resident_peak_bytes"] = json!(peak);
    report["backend"] = json!(model.backend());
    report["budget"] = json!(args.plan.report(&usage));
    report["usage"] = json!(usage);
    if args.plan.json {
        return print_json(&report);
    }
    let rate = |part: &str| report[part]["tokens_per_second"].as_f64().unwrap_or(0.0);
    let mib = |v: &Value| v.as_f64().unwrap_or(0.0) / (1024.0 * 1024.0);
    let m = &report["memory"];
    print_line(format!("backend  {}", model.backend()))?;
    print_line(format!("load     {load_ms:.1} ms"))?;
    let tokens = &report["prefill"]["tokens"];
    print_line(format!("prefill  {:.1} tokens/s ({tokens} tokens)", rate("prefill")))?;
    if report["decode"].is_object() {
        print_line(format!(
            "decode   {:.1} tokens/s ({} tokens, batch {}; {:.2} ms in the median, {:.2} ms at 95 %)",
            rate("decode"),
            args.decode,
            args.batch,
            report["decode"]["median_ms"].as_f64().unwrap_or(0.0),
            report["decode"]["p95_ms"].as_f64().unwrap_or(0.0),
        ))?;
    }
    print_line(format!(
        "memory   weights {:.1} MiB, KV cache {:.1} MiB, resident {:.1} MiB after open, {:.1} MiB at most",
        mib(&m["weights_bytes"]),
        mib(&m["kv_cache_bytes"]),
        mib(&m["resident_after_open_bytes"]),
        mib(&m["resident_peak_bytes"]),
    ))
}

/// Token ids that differ from one another, so that no two rows are alike.
fn some_ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + 13) % vocab) as u32).collect()
}

/// The value below which this share of the others lie; 0 of none.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * share) as usize).copied().unwrap_or(0.0)
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// One step of decoding.
struct Step {
    ms: f64,
    fraction: f64,
    price: f32,
    target: f64,
}

/// Writes the steps as comma-separated values with a heading.
fn write_trace(path: &Path, steps: &[Step]) -> Result<(), Failure> {
    let mut text = String::from("step,ms,fraction,price,target\n");
    for (i, Step { ms, fraction, price, target }) in steps.iter().enumerate() {
        text += &format!("{i},{ms:.4},{fraction:.4},{price:.6},{target:.4}\n");
    }
    write_result(path, text)
}

fn text(args: &BenchArgs, model: &Model) -> Result<(Value, Usage), Failure> {
    let vocab = model.manifest().vocab_size;
    let context = args.prompt.saturating_add(args.decode);
    let most = model.manifest().context_length;
    if context > most {
        return Err(Failure::new(format!("{context} tokens are beyond the context of {most}")));
    }
    let ids = some_ids(args.prompt, vocab);
    // Blocks of the forks' own tails beside the shared prompt.
    let cache_tokens = args.prompt + args.batch * (args.decode + 64);
    let options = SessionOptions { context, cache_tokens, ..SessionOptions::default() };
    let mut session = args.plan.session(model, options)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let mut trace = Vec::new();
    let mut usage = Usage::default();
    let mut kv_bytes = 0;
    // One more than asked for: the first warms up and is not counted.
    for round in 0..=args.repeat {
        let sequence = session.sequence();
        let start = Instant::now();
        let work = [Work { sequence, tokens: &ids, wanted: Wanted::Last }];
        usage.add(&session.step(&work, |_, _| {})?);
        let prefill_seconds = start.elapsed().as_secs_f64();
        let mut sequences = vec![sequence];
        for _ in 1..args.batch {
            sequences.push(session.fork(sequence)?);
        }
        let start = Instant::now();
        for token in some_ids(args.decode, vocab) {
            let tokens = [token];
            let work: Vec<Work<'_>> = sequences
                .iter()
                .map(|s| Work { sequence: *s, tokens: &tokens, wanted: Wanted::Last })
                .collect();
            let before = (usage.ms, usage.macs, usage.full_macs);
            session.step_onto(&mut usage, &work, |_, _| {})?;
            if round > 0 {
                let Status { price, target, .. } = session.status();
                let spent = (usage.macs - before.1) as f64;
                let fraction = spent / (usage.full_macs - before.2).max(1) as f64;
                trace.push(Step { ms: usage.ms - before.0, fraction, price, target });
            }
        }
        let decode_seconds = start.elapsed().as_secs_f64();
        kv_bytes = session.cache_bytes();
        sequences.into_iter().try_for_each(|s| session.free(s))?;
        if round > 0 {
            prefill.push(args.prompt as f64 / prefill_seconds);
            decode.push((args.decode * args.batch) as f64 / decode_seconds);
        }
    }
    if let Some(path) = &args.trace {
        write_trace(path, &trace)?;
    }
    let mut ms: Vec<f64> = trace.iter().map(|step| step.ms).collect();
    let report = json!({
        "prefill": {"tokens": args.prompt, "tokens_per_second": median(&mut prefill)},
        "decode": {
            "tokens": args.decode,
            "batch": args.batch,
            "tokens_per_second": median(&mut decode),
            "median_ms": quantile(&mut ms, 0.5),
            "p95_ms": quantile(&mut ms, 0.95),
        },
        "memory": {"kv_cache_bytes": kv_bytes, "kv": args.plan.kv.name()},
    });
    Ok((report, usage))
}

fn encoder(args: &BenchArgs, model: &Model) -> Result<(Value, Usage), Failure> {
    let tokens = args.prompt.min(model.manifest().context_length);
    let ids = some_ids(tokens, model.manifest().vocab_size);
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let input = EncoderInput { ids: &ids, positions: &positions, keys: tokens };
    let inputs = vec![input; args.batch];
    let mut encoder = args.plan.encoder(model)?;
    let mut rates = Vec::new();
    let mut usage = Usage::default();
    for round in 0..=args.repeat {
        let start = Instant::now();
        usage.add(&encoder.encode(&inputs, |_, _| {})?);
        if round > 0 {
            rates.push((tokens * args.batch) as f64 / start.elapsed().as_secs_f64());
        }
    }
    let report = json!({
        "prefill": {"tokens": tokens, "batch": args.batch, "tokens_per_second": median(&mut rates)},
        "memory": {"kv_cache_bytes": 0},
    });
    Ok((report, usage))
}

/// Images of noise, as many as `--batch` says.
fn classifier(args: &BenchArgs, model: &Model) -> Result<(Value, Usage), Failure> {
    let mut classifier = args.plan.classifier(model)?;
    let (tokens, values) = (classifier.tokens(), classifier.image().iter().product::<usize>());
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0;
    let pixels: Vec<f32> = (0..values * args.batch).map(noise).collect();
    let mut rates = Vec::new();
    let mut usage = Usage::default();
    for round in 0..=args.repeat {
        let start = Instant::now();
        usage.add(&classifier.classify(&pixels)?.1);
        if round > 0 {
            rates.push((tokens * args.batch) as f64 / start.elapsed().as_secs_f64());
        }
    }
    let report = json!({
        "prefill": {"tokens": tokens, "batch": args.batch, "tokens_per_second": median(&mut rates)},
        "memory": {"kv_cache_bytes": 0},
    });
    Ok((report, usage))
}
