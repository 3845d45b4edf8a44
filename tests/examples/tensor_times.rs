//! Times a plan of f32 tensors on numbers of a formula:
//! `cargo run --release -p limbeck-tests --example tensor_times PLAN BATCH THREADS RUNS`.
//!
//! Each size that a call binds is BATCH. Prints the milliseconds of each run after two that warm up.

use limbeck::plan::{Dim, OperandKind};
use limbeck::{Engine, EngineOptions, Forward, SessionOptions, TensorData, TensorView};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [plan, batch, threads, runs] = args.as_slice() else {
        return Err("PLAN BATCH THREADS RUNS".into());
    };
    let (batch, runs): (u64, usize) = (batch.parse()?, runs.parse()?);
    let options = EngineOptions { threads: threads.parse()?, ..EngineOptions::default() };
    let model = Engine::new(options)?.open(plan)?;
    let mut forward = Forward::new(&model, SessionOptions::default())?;
    let entry = model.plan().program().entry(forward.interface().entry).ok_or("no entry")?;
    let inputs = entry.operands_of(OperandKind::Input).map(|(_, operand)| {
        let size = |dim: &Dim| dim.as_const().unwrap_or(batch) as usize;
        let shape: Vec<usize> = operand.fact.shape.iter().map(size).collect();
        let values =
            (0..shape.iter().product()).map(|i: usize| (i * 37 % 101) as f32 / 101.0 + 0.1);
        (operand.name.clone(), shape, values.collect::<Vec<f32>>())
    });
    let inputs: Vec<_> = inputs.collect();
    let views: Vec<TensorView<'_>> = inputs
        .iter()
        .map(|(name, shape, values)| TensorView { name, shape, data: TensorData::F32(values) })
        .collect();
    for run in 0..runs + 2 {
        let (_, usage) = forward.run(&views)?;
        if run > 1 {
            println!("{:.2}", usage.ms);
        }
    }
    Ok(())
}
