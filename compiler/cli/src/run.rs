//! `limbeck run`: continue a prompt.

use std::ops::ControlFlow;

use limbeck::text::{ChatMessage, GenerateOptions, Generation, generate};
use limbeck::{Model, Session, SessionOptions, Usage};
use serde_json::{Value, json};

use crate::args::{BudgetReport, RunArgs};
use crate::output::{Failure, note, print, print_json, print_line};

pub fn execute(args: RunArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    if let Some(image) = &args.image {
        let message = "this student does not see images";
        return Err(Failure::new(format!("--image {}: {message}", image.display())));
    }
    let prompt = prompt_ids(&args, &model)?;
    let context = model.manifest().context_length;
    let room = context.min(prompt.len().saturating_add(args.max_tokens));
    let own = (room + 64).saturating_sub(prompt.len());
    let cache_tokens = prompt.len() + args.samples * (own + 64);
    let options = SessionOptions { cache_tokens, ..SessionOptions::default() };
    let mut session = args.plan.runner.session(&model, options)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampler: args.sampling.options(&model),
        stop: args.sampling.stop.clone(),
        ..GenerateOptions::default()
    };
    if args.samples > 1 && options.sampler.temperature == 0.0 {
        note("the samples are equal: at temperature 0 each takes the likeliest tokens");
    }
    // One continuation streams; several are printed when they are done.
    let streams = args.samples == 1 && !args.plan.runner.json;
    let generation = stream(&mut session, &prompt, args.samples, &options, streams)?;
    let mut usage = generation.prefill.clone();
    usage.add(&generation.decode);
    let budget = args.plan.runner.report(&usage);
    if args.plan.runner.json {
        return print_json(&report(&generation, &usage, &budget));
    }
    if streams {
        print_line("")?;
    } else {
        for (i, c) in generation.continuations.iter().enumerate() {
            print_line(format!("--- sample {i} ({})\n{}", c.finish.name(), c.text))?;
        }
    }
    summary(&generation);
    Ok(())
}

fn prompt_ids(args: &RunArgs, model: &Model) -> Result<Vec<u32>, Failure> {
    if args.chat {
        let message = ChatMessage { role: "user", content: &args.prompt };
        let text = model.render_chat(&[message], true)?;
        return Ok(model.tokenizer()?.encode(&text, false)?);
    }
    Ok(model.prompt(&args.prompt)?)
}

fn stream(
    session: &mut Session,
    prompt: &[u32],
    samples: usize,
    options: &GenerateOptions,
    show: bool,
) -> Result<Generation, Failure> {
    let sequence = session.sequence();
    let mut broken = None;
    let generation = generate(session, sequence, prompt, samples, options, |piece| {
        match if show { print(piece.text) } else { Ok(()) } {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                broken = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    broken.map_or(Ok(generation), Err)
}

fn rate(usage: &Usage) -> f64 {
    if usage.ms > 0.0 { usage.tokens as f64 / usage.ms * 1e3 } else { 0.0 }
}

/// Speeds, to stderr.
pub fn summary(generation: &Generation) {
    let (prefill, decode) = (&generation.prefill, &generation.decode);
    note(format!(
        "prompt {} tokens at {:.0} tokens/s, answer {} tokens at {:.1} tokens/s",
        prefill.tokens,
        rate(prefill),
        generation.continuations.iter().map(|c| c.tokens.len()).sum::<usize>(),
        rate(decode),
    ));
}

fn report(generation: &Generation, usage: &Usage, budget: &BudgetReport) -> Value {
    let samples: Vec<Value> = generation
        .continuations
        .iter()
        .map(|c| {
            json!({
                "text": c.text,
                "tokens": c.tokens,
                "logprobs": c.logprobs,
                "finish": c.finish.name(),
            })
        })
        .collect();
    let part = |usage: &Usage, tokens: usize| json!({"tokens": tokens, "tokens_per_second": rate(usage), "ms": usage.ms});
    let answered = generation.continuations.iter().map(|c| c.tokens.len()).sum();
    let first = samples.first().cloned().unwrap_or_default();
    json!({
        "text": first["text"],
        "tokens": first["tokens"],
        "finish": first["finish"],
        "samples": samples,
        "prefill": part(&generation.prefill, generation.prompt_tokens),
        "decode": part(&generation.decode, answered),
        "usage": usage,
        "budget": budget,
    })
}
