//! `limbeck embed`: lines of stdin to vectors, a JSON array a line.

use limbeck::{Budget, Usage};
use serde_json::json;

use crate::args::EmbedArgs;
use crate::lines::lines_of;
use crate::output::{Failure, note, print_json, print_line};

pub fn execute(args: EmbedArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    let mut encoder = args.plan.runner.encoder(&model)?;
    let mut lines = lines_of(std::io::stdin().lock());
    let deadline = matches!(args.plan.runner.budget()?.0, Budget::Deadline(_));
    let mut usage = Usage::default();
    let mut all = Vec::new();
    let mut cut = 0;
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
        // A deadline is each batch's own, and one that was missed stays so.
        let missed = usage.unmet.filter(|_| deadline);
        usage.add(&spent);
        usage.unmet = missed.or(usage.unmet);
        cut += encoder.cut();
        if args.plan.runner.json {
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
    if cut > 0 {
        let (lines, most) = (if cut == 1 { "line was" } else { "lines were" }, encoder.context());
        note(format!("{cut} {lines} cut at {most} tokens"));
    }
    let budget = args.plan.runner.report(&usage);
    if args.plan.runner.json {
        let report = json!({
            "embeddings": all,
            "cut_lines": cut,
            "usage": usage,
            "budget": budget,
        });
        return print_json(&report);
    }
    Ok(())
}
