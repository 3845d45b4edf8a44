//! `limbeck generate`: samples of a student that denoises.

use std::ops::ControlFlow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use limbeck::{DiffuseOptions, Tensor, TensorValues};
use serde_json::json;

use crate::args::GenerateArgs;
use crate::image::Picture;
use crate::npz;
use crate::output::{Failure, check_result, print_json, say};

pub fn execute(args: GenerateArgs) -> Result<(), Failure> {
    let png = has_extension(&args.output, "png");
    if !png && !has_extension(&args.output, "npz") {
        return Err(Failure::usage("-o takes a name that ends in .png or .npz"));
    }
    if args.samples > 1 && (png || args.preview.is_some()) {
        return Err(Failure::usage("a picture is of one sample: several go to an .npz file"));
    }
    if let Some(preview) = &args.preview {
        if !has_extension(preview, "png") {
            return Err(Failure::usage("--preview takes a name that ends in .png"));
        }
        if *preview == args.output {
            return Err(Failure::usage("-o and --preview are the same file"));
        }
    }
    let model = args.plan.open()?;
    check_result(&args.output)?;
    args.preview.as_deref().map_or(Ok(()), check_result)?;
    let mut diffuser = args.plan.runner.diffuser(&model)?;
    let numbers: Vec<(&str, f64)> = args.set.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let options = DiffuseOptions {
        samples: args.samples,
        seed: args.seed,
        steps: args.steps,
        numbers: &numbers,
        tensors: &[],
    };
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} steps") {
        bar.set_style(style);
    }
    let result = diffuser.diffuse(&options, |progress| {
        bar.set_length(progress.of as u64);
        bar.set_position(progress.done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let found = result?;
    let picture = || Picture::new(&diffuser.shape(), &found.values, diffuser.values());
    if png {
        picture()?.write(&args.output)?;
    } else {
        let (shape, values) = (found.shape.clone(), TensorValues::F32(found.values.clone()));
        npz::write(&args.output, &[Tensor { name: "samples".into(), shape, values }])?;
    }
    if let Some(preview) = &args.preview {
        picture()?.write_preview(preview)?;
    }
    let budget = args.plan.runner.report(&found.usage);
    if args.plan.runner.json {
        return print_json(&json!({
            "output": args.output.display().to_string(),
            "preview": args.preview.as_ref().map(|path| path.display().to_string()),
            "samples": args.samples,
            "seed": args.seed,
            "steps": found.steps,
            "shape": found.shape,
            "usage": found.usage,
            "budget": budget,
        }));
    }
    let (output, steps, ms) = (args.output.display(), found.steps, found.usage.ms);
    let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    say(format_args!("wrote {output}: {steps}, {ms:.0} ms"));
    Ok(())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(wanted))
}
