//! `limbeck perplexity`.
//!
//! As llama.cpp's tool measures it: the text is cut into windows of `--context` tokens (a rest that
//! does not fill one is left out), each begins with the bos token where the student has the habit,
//! and the tokens of its second half are scored.

use indicatif::{ProgressBar, ProgressDrawTarget};
use limbeck::text::log_probabilities;
use limbeck::{SessionOptions, Usage, Wanted, Work};
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::output::{Failure, at_file, print_json, print_line};

pub fn execute(args: PerplexityArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    args.plan.budget()?;
    let context = args.context;
    if context < 4 {
        return Err(Failure::new(format!("a context of {context} is too short to score")));
    }
    let text = at_file(&args.file, std::fs::read(&args.file))?;
    let text = at_file(&args.file, String::from_utf8(text).map_err(|e| e.utf8_error()))?;
    let tokens = model.tokenizer()?.encode(&text, false)?;
    let windows = tokens.len() / context;
    if windows == 0 {
        let message = format!("{} tokens do not fill a context of {context}", tokens.len());
        return Err(Failure::new(format!("{}: {message}", args.file.display())));
    }
    let options = SessionOptions { context, chunk: 128, ..SessionOptions::default() };
    let mut session = args.plan.session(&model, options)?;
    let bos = model.manifest().special.bos.filter(|_| model.manifest().add_bos);
    let bar = ProgressBar::with_draw_target(Some(windows as u64), ProgressDrawTarget::stderr());
    let (mut sum, mut count) = (0.0f64, 0u64);
    let mut usage = Usage::default();
    let mut logprobs = Vec::new();
    for window in tokens.chunks_exact(context) {
        let mut window = window.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let sequence = session.sequence();
        // The logits after token t score token t + 1; the first scored is the one after the
        // window's middle.
        let (head, rest) = window.split_at(context / 2);
        let last = rest.len() - 1;
        usage.add(
            &session.step(&[Work { sequence, tokens: head, wanted: Wanted::None }], |_, _| {})?,
        );
        let mut failure = None;
        let work = [Work { sequence, tokens: &rest[..last], wanted: Wanted::All }];
        usage.add(&session.step(&work, |row, logits| {
            logprobs.resize(logits.len(), 0.0);
            match log_probabilities(logits, &mut logprobs) {
                Ok(()) => {
                    sum -= f64::from(logprobs[rest[row.token + 1] as usize]);
                    count += 1;
                }
                Err(e) => failure = Some(e),
            }
        })?);
        if let Some(e) = failure {
            return Err(e.into());
        }
        session.free(sequence)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let perplexity = (sum / count as f64).exp();
    let budget = args.plan.report(&usage);
    if args.plan.json {
        return print_json(&json!({
            "perplexity": perplexity,
            "tokens": count,
            "context": context,
            "usage": usage,
            "budget": budget,
        }));
    }
    print_line(format!("perplexity {perplexity:.4} over {count} tokens (context {context})"))
}
