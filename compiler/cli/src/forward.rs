//! `limbeck forward`: an entry on tensors from a file, as [`limbeck::Forward`] names and shapes them.

use std::time::{Duration, Instant};

use limbeck::{Interface, SessionOptions, TensorData, TensorView};
use serde_json::json;

use crate::args::ForwardArgs;
use crate::memory;
use crate::npz::{self, Floats, Inputs, Integers};
use crate::output::{Failure, check_result, print_json};

pub fn execute(args: ForwardArgs) -> Result<(), Failure> {
    let before = memory::resident().map(|m| m.0);
    let model = args.plan.open()?;
    let open = memory::resident().map(|m| m.0);
    check_result(&args.outputs)?;
    let mut inputs = Inputs::open(&args.inputs)?;
    let interface = Interface::of(model.plan());
    let entry = interface.entry;
    if let Some(name) = args.entry.as_deref().filter(|name| *name != entry) {
        return Err(Failure::new(format!("the plan has no entry {name:?}, only {entry:?}")));
    }
    let names = inputs.names();
    if let Some(name) = names.iter().find(|n| interface.inputs.iter().all(|k| k.0 != n.as_str())) {
        let known = interface.listed_inputs();
        return Err(Failure::new(format!("entry {entry:?} takes no {name:?}, only {known}")));
    }
    let options = SessionOptions { chunk: args.chunk, ..SessionOptions::default() };
    let mut forward = args.plan.runner.forward(&model, options)?;
    let tensors: Vec<Given> =
        names.iter().map(|name| Given::read(&mut inputs, name)).collect::<Result<_, _>>()?;
    let views: Vec<TensorView<'_>> =
        tensors.iter().zip(&names).map(|(tensor, name)| tensor.view(name)).collect();
    let mut spent = Vec::with_capacity(args.repeat);
    let mut start = Instant::now();
    let (mut outputs, mut usage) = forward.run(&views)?;
    spent.push(start.elapsed());
    for _ in 1..args.repeat {
        start = Instant::now();
        (outputs, usage) = forward.run(&views)?;
        spent.push(start.elapsed());
    }
    let memory = json!({
        "resident_before_open_bytes": before,
        "resident_after_open_bytes": open,
        "resident_peak_bytes": memory::resident().map(|m| m.1),
    });
    npz::write(&args.outputs, &outputs)?;
    let budget = args.plan.runner.report(&usage);
    if args.plan.runner.json {
        let path = args.outputs.display().to_string();
        return print_json(&json!({
            "outputs": path,
            "usage": usage,
            "budget": budget,
            "median_ms": median_ms(spent),
            "memory": memory,
        }));
    }
    Ok(())
}

/// Of all runs but the first, which prepares what the others use again.
fn median_ms(mut spent: Vec<Duration>) -> f64 {
    if spent.len() > 1 {
        spent.remove(0);
    }
    spent.sort_unstable();
    let middle = spent.len() / 2;
    let median = match spent.len() % 2 {
        0 => (spent[middle - 1] + spent[middle]) / 2,
        _ => spent[middle],
    };
    median.as_secs_f64() * 1e3
}

/// A tensor of the file.
enum Given {
    Floats(Floats),
    Integers(Integers),
}

impl Given {
    /// Whatever the tensor's type: which one is wanted is said by what takes it.
    fn read(inputs: &mut Inputs, name: &str) -> Result<Given, Failure> {
        let missing = || Failure::new(format!("the inputs have no tensor {name:?}"));
        if inputs.is_float(name)? {
            return Ok(Given::Floats(inputs.floats(name)?.ok_or_else(missing)?));
        }
        Ok(Given::Integers(inputs.integers(name)?.ok_or_else(missing)?))
    }

    fn view<'a>(&'a self, name: &'a str) -> TensorView<'a> {
        let (shape, data) = match self {
            Given::Floats(tensor) => (&tensor.shape, TensorData::F32(&tensor.values)),
            Given::Integers(tensor) => (&tensor.shape, TensorData::I64(&tensor.values)),
        };
        TensorView { name, shape, data }
    }
}
