//! `limbeck embed`: lines of stdin to vectors, a JSON array a line.

use std::io::BufRead;

use limbeck::Usage;
use serde_json::json;

use crate::args::EmbedArgs;
use crate::output::{Failure, print_json, print_line};

pub fn execute(args: EmbedArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    let mut encoder = args.plan.encoder(&model)?;
    let mut lines = std::io::stdin().lock().lines();
    let mut usage = Usage::default();
    let mut all = Vec::new();
    loop {
        let mut batch = Vec::new();
        for line in lines.by_ref().take(args.batch) {
            batch.push(line.map_err(|e| Failure::new(format!("stdin: {e}")))?);
        }
        if batch.is_empty() {
            break;
        }
        let texts: Vec<&str> = batch.iter().map(String::as_str).collect();
        let (embeddings, spent) = encoder.embed(&texts)?;
        usage.add(&spent);
        if args.plan.json {
            all.extend(embeddings);
            continue;
        }
        for embedding in embeddings {
            print_line(serde_json::to_string(&embedding).map_err(Failure::new)?)?;
        }
    }
    if usage.tokens == 0 {
        return Err(Failure::new("stdin: there is no line to embed"));
    }
    let budget = args.plan.report(&usage);
    if args.plan.json {
        return print_json(&json!({"embeddings": all, "usage": usage, "budget": budget}));
    }
    Ok(())
}
