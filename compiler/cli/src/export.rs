//! `limbeck export`.

use indicatif::HumanBytes;
use limbeck::plan::Plan;
use limbeck_compiler::export;
use serde_json::json;

use crate::args::ExportArgs;
use crate::memory;
use crate::output::{Failure, at_file, print_json, say};

pub fn execute(args: ExportArgs) -> Result<(), Failure> {
    let bytes = memory::map(&args.plan)?;
    let plan = at_file(&args.plan, Plan::parse(&bytes))?;
    if args.output.is_file() {
        let output = args.output.display();
        return Err(Failure::new(format!("{output}: it is a file, and -o names a folder")));
    }
    let exported = at_file(&args.plan, export(&plan, &bytes, &args.output))?;
    let model = args.output.join("model.onnx");
    if args.json {
        let (inputs, outputs) = exported.interface;
        return print_json(&json!({
            "model": model.display().to_string(),
            "nodes": exported.nodes,
            "bytes": exported.bytes,
            "inputs": inputs,
            "outputs": outputs,
        }));
    }
    let (model, nodes) = (model.display(), exported.nodes);
    say(format_args!("wrote {model}: {nodes} nodes, {}", HumanBytes(exported.bytes)));
    Ok(())
}
