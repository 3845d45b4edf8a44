//! `limbeck forward`: an entry on tensors from a file.
//!
//! Text decoders take `input_ids` `[tokens]` and give `logits` `[tokens, vocab]`. Encoders take
//! `input_ids` and `attention_mask` `[batch, tokens]` and give `last_hidden_state`
//! `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`.

use limbeck::plan::{Manifest, Task};
use limbeck::{EncoderInput, Model, SessionOptions, Usage, Wanted, Work};
use serde_json::json;

use crate::args::ForwardArgs;
use crate::npz::{self, Floats, Inputs, Integers};
use crate::output::{Failure, print_json};

pub fn execute(args: ForwardArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    args.plan.budget()?;
    let mut inputs = Inputs::open(&args.inputs)?;
    let task = model.manifest().task;
    let (entry, known): (_, &[&str]) = match task {
        Task::Text => (Manifest::TEXT_ENTRY, &["input_ids"]),
        Task::Embed => (Manifest::EMBED_ENTRY, &["input_ids", "attention_mask"]),
    };
    if let Some(name) = args.entry.as_deref().filter(|name| *name != entry) {
        return Err(Failure::new(format!("the plan has no entry {name:?}, only {entry:?}")));
    }
    if let Some(name) = inputs.names().iter().find(|n| !known.contains(&n.as_str())) {
        let known = known.join(", ");
        return Err(Failure::new(format!("entry {entry:?} takes no {name:?}, only {known}")));
    }
    let (usage, outputs) = match task {
        Task::Text => text(&args, &model, &mut inputs)?,
        Task::Embed => encoder(&args, &model, &mut inputs)?,
    };
    npz::write(&args.outputs, &outputs)?;
    let budget = args.plan.report(&usage);
    if args.plan.json {
        let path = args.outputs.display().to_string();
        return print_json(&json!({"outputs": path, "usage": usage, "budget": budget}));
    }
    Ok(())
}

fn required(inputs: &mut Inputs, name: &str) -> Result<Integers, Failure> {
    let found = inputs.integers(name)?;
    found.ok_or_else(|| Failure::new(format!("the inputs have no tensor {name:?}")))
}

fn to_ids(values: &[i64]) -> Result<Vec<u32>, Failure> {
    let id =
        |v: &i64| u32::try_from(*v).map_err(|_| Failure::new(format!("{v} is not a token id")));
    values.iter().map(id).collect()
}

fn text(
    args: &ForwardArgs,
    model: &Model,
    inputs: &mut Inputs,
) -> Result<(Usage, Vec<Floats>), Failure> {
    let ids = required(inputs, "input_ids")?;
    let tokens = match ids.shape[..] {
        [n] | [1, n] => n,
        _ => {
            let message = format!("input_ids has shape {:?}, not [tokens]", ids.shape);
            return Err(Failure::new(message));
        }
    };
    let ids = to_ids(&ids.values)?;
    let options = SessionOptions { chunk: args.chunk, ..SessionOptions::default() };
    let mut session = args.plan.session(model, options)?;
    let sequence = session.sequence();
    let vocab = model.manifest().vocab_size;
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens: &ids, wanted: Wanted::All }];
    let usage = session.step(&work, |_, row| logits.extend_from_slice(row))?;
    Ok((usage, vec![Floats { name: "logits", shape: vec![tokens, vocab], values: logits }]))
}

/// Rows of the batch may be masked anywhere; a row's valid tokens go first, its padding after
/// them, each with its own position.
fn encoder(
    args: &ForwardArgs,
    model: &Model,
    inputs: &mut Inputs,
) -> Result<(Usage, Vec<Floats>), Failure> {
    let ids = required(inputs, "input_ids")?;
    let [batch, tokens] = ids.shape[..] else {
        let message = format!("input_ids has shape {:?}, not [batch, tokens]", ids.shape);
        return Err(Failure::new(message));
    };
    if batch == 0 {
        return Err(Failure::new("input_ids holds no sequence"));
    }
    let mask = match inputs.integers("attention_mask")? {
        None => vec![1; ids.values.len()],
        Some(mask) if mask.shape == ids.shape => mask.values,
        Some(mask) => {
            let message = format!("attention_mask has shape {:?}, not {:?}", mask.shape, ids.shape);
            return Err(Failure::new(message));
        }
    };
    let ids = to_ids(&ids.values)?;
    let mut rows = Vec::with_capacity(batch);
    for b in 0..batch {
        let range = b * tokens..(b + 1) * tokens;
        let valid = |keep: bool| {
            let mask = &mask[range.clone()];
            (0..tokens).filter(move |t| (mask[*t] != 0) == keep)
        };
        let order: Vec<usize> = valid(true).chain(valid(false)).collect();
        let row_ids: Vec<u32> = order.iter().map(|t| ids[range.start + t]).collect();
        let positions: Vec<u32> = order.iter().map(|t| *t as u32).collect();
        rows.push((order, row_ids, positions, valid(true).count()));
    }
    let sequences: Vec<EncoderInput<'_>> = rows
        .iter()
        .map(|(_, ids, positions, keys)| EncoderInput { ids, positions, keys: *keys })
        .collect();
    let size = model.manifest().embedding_size;
    let mut hidden = Vec::new();
    let mut embeddings = vec![0.0; batch * size];
    let mut encoder = args.plan.encoder(model)?;
    let usage = encoder.encode(&sequences, |b, encoded| {
        let cols = encoded.last_hidden_state.len() / tokens;
        hidden.resize(batch * tokens * cols, 0.0);
        for (row, t) in encoded.last_hidden_state.chunks_exact(cols).zip(&rows[b].0) {
            hidden[(b * tokens + t) * cols..][..cols].copy_from_slice(row);
        }
        embeddings[b * size..][..size].copy_from_slice(encoded.embedding);
    })?;
    let cols = hidden.len().checked_div(batch * tokens).unwrap_or(0);
    let outputs = vec![
        Floats { name: "last_hidden_state", shape: vec![batch, tokens, cols], values: hidden },
        Floats { name: "embedding", shape: vec![batch, size], values: embeddings },
    ];
    Ok((usage, outputs))
}
