//! `limbeck perplexity`.

use indicatif::{ProgressBar, ProgressDrawTarget};
use limbeck::{SessionOptions, Usage};
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::output::{Failure, print_json, print_line};
use crate::score::{Scorer, windows};

pub fn execute(args: PerplexityArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    let context = args.context;
    let windows = windows(&model, &args.file, context)?;
    let options = SessionOptions { context, chunk: 128, ..SessionOptions::default() };
    let mut session = args.plan.runner.session(&model, options)?;
    let length = Some(windows.len() as u64);
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let (mut sum, mut count) = (0.0f64, 0u64);
    let mut usage = Usage::default();
    let mut scorer = Scorer::default();
    for window in &windows {
        usage.add(&scorer.score(&mut session, window, |logprob, _| {
            sum -= f64::from(logprob);
            count += 1;
        })?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let perplexity = (sum / count as f64).exp();
    let budget = args.plan.runner.report(&usage);
    if args.plan.runner.json {
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
