//! `limbeck bench`: prefill, decode, load time and memory; or the kernels.

mod kernels;

use std::path::Path;
use std::time::Instant;

use limbeck::plan::Task;
use limbeck::{DeviceUse, EncoderInput, Model, SessionOptions, Status, Usage, Wanted, Work};
use limbeck_kernels::rates::Ceilings;
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::memory;
use crate::output::{Failure, check_result, note, print_json, print_line, write_result};

pub fn execute(args: BenchArgs) -> Result<(), Failure> {
    if args.kernels {
        return kernels::execute(&args);
    }
    args.trace.as_deref().map_or(Ok(()), check_result)?;
    let start = Instant::now();
    let model = args.runner.open(args.plan())?;
    let task = model.manifest().task;
    if args.trace.is_some() && task != Task::Text {
        return Err(Failure::new(
            "--trace is of decoded tokens: it needs a student that continues text",
        ));
    }
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let open_bytes = memory::resident().map(|m| m.0);
    let (mut report, usage) = match task {
        Task::Text => text(&args, &model)?,
        Task::Embed => encoder(&args, &model)?,
        Task::Classify => classifier(&args, &model)?,
        Task::Tensors => {
            let message =
                "a plan of tensors is timed on its inputs: `forward --json` tells the time";
            return Err(Failure::new(message));
        }
        Task::Diffuse => {
            let message = "a student that denoises is timed by `generate --json`";
            return Err(Failure::new(message));
        }
    };
    let weights: u64 = model.plan().program().weights.iter().map(|w| w.bytes).sum();
    let peak = memory::resident().map(|m| m.1);
    report["load_ms"] = json!(load_ms);
    report["memory"]["weights_bytes"] = json!(weights);
    report["memory"]["resident_after_open_bytes"] = json!(open_bytes);
    report["memory"]["resident_peak_bytes"] = json!(peak);
    report["backend"] = json!(model.backend());
    report["budget"] = json!(args.runner.report(&usage));
    report["usage"] = json!(usage);
    if args.ceilings {
        report["ceilings"] = match model.read_rate()? {
            Some(rate) => json!({"read_bytes_per_second": rate}),
            None => kernels::ceilings_json(&Ceilings::measure(&kernels::pool(&args))),
        };
    }
    if args.runner.json {
        return print_json(&report);
    }
    print_report(&args, &report)
}

/// For people.
fn print_report(args: &BenchArgs, report: &Value) -> Result<(), Failure> {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let rate = |part: &str| report[part]["tokens_per_second"].as_f64().unwrap_or(0.0);
    let mib = |v: &Value| v.as_f64().unwrap_or(0.0) / (1024.0 * 1024.0);
    let m = &report["memory"];
    print_line(format!("backend  {}", report["backend"].as_str().unwrap_or_default()))?;
    print_line(format!("load     {:.1} ms", number(&report["load_ms"])))?;
    let prefill = &report["prefill"];
    print_line(format!(
        "prefill  {:.1} tokens/s ({} tokens, batch {}; {:.3} ms in the median)",
        rate("prefill"),
        prefill["tokens"],
        prefill["batch"],
        number(&prefill["median_ms"]),
    ))?;
    let decode = &report["decode"];
    if decode.is_object() {
        print_line(format!(
            "decode   {:.1} tokens/s ({} tokens, batch {}; {:.2} ms in the median, {:.2} ms at 95 %)",
            rate("decode"),
            args.decode,
            args.batch,
            number(&decode["median_ms"]),
            number(&decode["p95_ms"]),
        ))?;
    }
    let device = &decode["device"];
    if device.is_object() {
        print_line(format!(
            "device   a step: {} dispatches, {} submission, {:.1} MiB of weights bound, {} bytes read back",
            device["dispatches"],
            device["submissions"],
            mib(&device["weight_bytes_bound"]),
            device["bytes_read_back"],
        ))?;
    }
    let ceilings = &report["ceilings"];
    if ceilings.is_object() {
        print_line(kernels::ceilings_line(ceilings))?;
        let [ops, bytes] = [&prefill["ops_per_second"], &decode["bytes_per_second"]].map(number);
        let read = 100.0 * bytes / number(&ceilings["read_bytes_per_second"]);
        print_line(format!("         prefill at {:.0} Gop/s", ops / 1e9))?;
        if decode.is_object() {
            print_line(format!(
                "         decode reads weights and cache at {:.1} GB/s: {read:.0} % of what memory gives",
                bytes / 1e9
            ))?;
        }
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

/// What calls of `batch` times `tokens` and so many multiply-adds took, in the median.
fn calls(tokens: usize, batch: usize, macs: u64, seconds: &mut [f64]) -> Value {
    let seconds = median(seconds);
    json!({
        "tokens": tokens,
        "batch": batch,
        "tokens_per_second": (tokens * batch) as f64 / seconds,
        "median_ms": 1e3 * seconds,
        "ops_per_second": 2.0 * macs as f64 / seconds,
    })
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
    let mut session = args.runner.session(model, options)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let (mut prefill_macs, mut decode_bytes) = (0, 0);
    let mut trace = Vec::new();
    let mut usage = Usage::default();
    let mut kv_bytes = 0;
    // One more than asked for: the first warms up and is not counted.
    for round in 0..=args.repeat {
        let sequence = session.sequence();
        let start = Instant::now();
        let work = [Work { sequence, tokens: &ids, wanted: Wanted::Last }];
        let prompt_usage = session.step(&work, |_, _| {})?;
        let prefill_seconds = start.elapsed().as_secs_f64();
        prefill_macs = prompt_usage.macs;
        usage.add(&prompt_usage);
        let bytes_before = usage.bytes;
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
            if session.device_use().is_some() {
                session.step_greedy(&mut usage, &work, |_, _| {})?;
            } else {
                session.step_onto(&mut usage, &work, |_, _| {})?;
            }
            if round > 0 {
                let Status { price, target, .. } = session.status();
                let spent = (usage.macs - before.1) as f64;
                let fraction = spent / (usage.full_macs - before.2).max(1) as f64;
                trace.push(Step { ms: usage.ms - before.0, fraction, price, target });
            }
        }
        let decode_seconds = start.elapsed().as_secs_f64();
        kv_bytes = session.cache_bytes();
        let cached = (kv_bytes as u64).saturating_mul(args.decode as u64);
        decode_bytes = (usage.bytes - bytes_before).saturating_add(cached);
        sequences.into_iter().try_for_each(|s| session.free(s))?;
        if round > 0 {
            prefill.push(prefill_seconds);
            decode.push(decode_seconds);
        }
    }
    if let Some(path) = &args.trace {
        write_trace(path, &trace)?;
    }
    let device = session.device_use().filter(|_| args.decode > 0).map(device_json);
    let mut ms: Vec<f64> = trace.iter().map(|step| step.ms).collect();
    let decode_seconds = median(&mut decode);
    let report = json!({
        "prefill": calls(args.prompt, 1, prefill_macs, &mut prefill),
        "decode": {
            "tokens": args.decode,
            "batch": args.batch,
            "tokens_per_second": (args.decode * args.batch) as f64 / decode_seconds,
            "median_ms": quantile(&mut ms, 0.5),
            "p95_ms": quantile(&mut ms, 0.95),
            "bytes_per_second": decode_bytes as f64 / decode_seconds,
            "device": device,
        },
        "memory": {"kv_cache_bytes": kv_bytes, "kv": args.runner.kv.name()},
    });
    Ok((report, usage))
}

/// What a decoded step took of a device.
fn device_json(used: DeviceUse) -> Value {
    json!({
        "dispatches": used.dispatches,
        "submissions": used.submissions,
        "weight_bytes_bound": used.weight_bytes_bound,
        "adaptive_bytes_read": used.adaptive_bytes_read,
        "bytes_read_back": used.bytes_read_back,
        "weight_bytes_held": used.weight_bytes_held,
    })
}

fn encoder(args: &BenchArgs, model: &Model) -> Result<(Value, Usage), Failure> {
    let most = model.manifest().context_length;
    if args.prompt > most {
        note(format!("inputs of {most} tokens, which is all that the encoder takes"));
    }
    let tokens = args.prompt.min(most);
    let ids = some_ids(tokens, model.manifest().vocab_size);
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let input = EncoderInput { ids: &ids, positions: &positions, keys: tokens };
    let inputs = vec![input; args.batch];
    let mut encoder = args.runner.encoder(model)?;
    timed(args, tokens, || encoder.encode(&inputs, |_, _| {}))
}

/// Images of noise, as many as `--batch` says.
fn classifier(args: &BenchArgs, model: &Model) -> Result<(Value, Usage), Failure> {
    let mut classifier = args.runner.classifier(model)?;
    let (tokens, values) = (classifier.tokens(), classifier.image().iter().product::<usize>());
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0;
    let pixels: Vec<f32> = (0..values * args.batch).map(noise).collect();
    timed(args, tokens, || Ok(classifier.classify(&pixels)?.1))
}

/// Times a call, of `tokens` tokens for each of the batch, after one that warms up.
fn timed(
    args: &BenchArgs,
    tokens: usize,
    mut call: impl FnMut() -> limbeck::Result<Usage>,
) -> Result<(Value, Usage), Failure> {
    let (mut seconds, mut macs) = (Vec::new(), 0);
    let mut usage = Usage::default();
    for round in 0..=args.repeat {
        let start = Instant::now();
        let call = call()?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        macs = call.macs;
        usage.add(&call);
    }
    let report = json!({
        "prefill": calls(tokens, args.batch, macs, &mut seconds),
        "memory": {"kv_cache_bytes": 0},
    });
    Ok((report, usage))
}
