//! `limbeck forward`: an entry on tensors from a file.
//!
//! Text decoders take `input_ids` `[tokens]` and give `logits` `[tokens, vocab]`. Encoders take
//! `input_ids` and `attention_mask` `[batch, tokens]` and give `last_hidden_state`
//! `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`. Classifiers take `pixel_values`
//! `[batch, channels, height, width]` and give `logits` `[batch, classes]`.
//!
//! Where a plan has sites, `choices` `[sites, tokens]` (`[sites, batch * tokens]` of an encoder or a
//! classifier, an image's class token being its first; -1 for padding) is given too, and forces them where it is an input; -1 leaves a choice to its gate.

use limbeck::plan::Task;
use limbeck::{EncoderInput, Model, SessionOptions, Usage, Wanted, Work};
use serde_json::json;

use crate::args::ForwardArgs;
use crate::interface::{CHOICES, Interface, listed};
use crate::npz::{self, Inputs, Integers, Output, OutputValues};
use crate::output::{Failure, check_result, print_json};

pub fn execute(args: ForwardArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    check_result(&args.outputs)?;
    let mut inputs = Inputs::open(&args.inputs)?;
    let task = model.manifest().task;
    let Interface { entry, inputs: known, .. } = Interface::of(model.plan());
    if let Some(name) = args.entry.as_deref().filter(|name| *name != entry) {
        return Err(Failure::new(format!("the plan has no entry {name:?}, only {entry:?}")));
    }
    if let Some(name) = inputs.names().iter().find(|n| known.iter().all(|k| k.0 != n.as_str())) {
        let known = listed(&known);
        return Err(Failure::new(format!("entry {entry:?} takes no {name:?}, only {known}")));
    }
    let (usage, outputs) = match task {
        Task::Text => text(&args, &model, &mut inputs)?,
        Task::Embed => encoder(&args, &model, &mut inputs)?,
        Task::Classify => classifier(&args, &model, &mut inputs)?,
    };
    npz::write(&args.outputs, &outputs)?;
    let budget = args.plan.runner.report(&usage);
    if args.plan.runner.json {
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
) -> Result<(Usage, Vec<Output>), Failure> {
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
    let mut session = args.plan.runner.session(model, options)?;
    let sequence = session.sequence();
    let vocab = model.manifest().vocab_size;
    if let Some(route) = route(inputs, model, tokens)? {
        session.force_route(route);
    }
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens: &ids, wanted: Wanted::All }];
    let usage = session.step(&work, |_, row| logits.extend_from_slice(row))?;
    let mut outputs = vec![floats("logits", vec![tokens, vocab], logits)];
    outputs.extend(choices(model, tokens, session.route().to_vec()));
    Ok((usage, outputs))
}

fn classifier(
    args: &ForwardArgs,
    model: &Model,
    inputs: &mut Inputs,
) -> Result<(Usage, Vec<Output>), Failure> {
    let mut classifier = args.plan.runner.classifier(model)?;
    let pixels = inputs.images(classifier.image())?;
    let batch = pixels.shape[0];
    let tokens = batch * classifier.tokens();
    if let Some(route) = route(inputs, model, tokens)? {
        classifier.force_route(route);
    }
    let (logits, usage) = classifier.classify(&pixels.values)?;
    let mut outputs = vec![floats("logits", vec![batch, classifier.classes()], logits)];
    outputs.extend(choices(model, tokens, classifier.route().to_vec()));
    Ok((usage, outputs))
}

/// The choices to force, `[sites, tokens]`.
fn route(inputs: &mut Inputs, model: &Model, tokens: usize) -> Result<Option<Vec<i32>>, Failure> {
    let Some(given) = inputs.integers(CHOICES)? else { return Ok(None) };
    let shape = [model.plan().program().sites.len(), tokens];
    if given.shape != shape {
        let message = format!("{CHOICES} has shape {:?}, not {shape:?}", given.shape);
        return Err(Failure::new(message));
    }
    let choice = |v: &i64| {
        i32::try_from(*v).map_err(|_| Failure::new(format!("{CHOICES}: {v} is not a choice")))
    };
    given.values.iter().map(choice).collect::<Result<_, _>>().map(Some)
}

/// The choices made, where the plan has sites.
fn choices(model: &Model, tokens: usize, values: Vec<i32>) -> Option<Output> {
    let sites = model.plan().program().sites.len();
    let values = OutputValues::I32(values);
    (sites > 0).then(|| Output { name: CHOICES, shape: vec![sites, tokens], values })
}

fn floats(name: &'static str, shape: Vec<usize>, values: Vec<f32>) -> Output {
    Output { name, shape, values: OutputValues::F32(values) }
}

/// Rows of the batch may be masked anywhere; a row's valid tokens go first, its padding after
/// them, each with its own position.
fn encoder(
    args: &ForwardArgs,
    model: &Model,
    inputs: &mut Inputs,
) -> Result<(Usage, Vec<Output>), Failure> {
    let ids = required(inputs, "input_ids")?;
    let [batch, tokens] = ids.shape[..] else {
        let message = format!("input_ids has shape {:?}, not [batch, tokens]", ids.shape);
        return Err(Failure::new(message));
    };
    if batch == 0 || tokens == 0 {
        let what = if batch == 0 { "sequence" } else { "tokens" };
        return Err(Failure::new(format!("input_ids holds no {what}")));
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
    let mut encoder = args.plan.runner.encoder(model)?;
    // Where each computed row lies among the caller's tokens; none for padding.
    let place = |b: usize, row: usize| {
        let (order, _, _, keys) = &rows[b];
        (row < *keys).then(|| b * tokens + order[row])
    };
    let total = batch * tokens;
    let places = || (0..total).map(|row| place(row / tokens, row % tokens));
    if let Some(given) = route(inputs, model, total)? {
        let sites = given.chunks_exact(total.max(1));
        let row = |site: &[i32]| -> Vec<i32> {
            places().map(|place| place.map_or(-1, |at| site[at])).collect()
        };
        encoder.force_route(sites.flat_map(row).collect());
    }
    let usage = encoder.encode(&sequences, |b, encoded| {
        let cols = encoded.last_hidden_state.len() / tokens;
        hidden.resize(batch * tokens * cols, 0.0);
        for (row, t) in encoded.last_hidden_state.chunks_exact(cols).zip(&rows[b].0) {
            hidden[(b * tokens + t) * cols..][..cols].copy_from_slice(row);
        }
        embeddings[b * size..][..size].copy_from_slice(encoded.embedding);
    })?;
    let cols = hidden.len().checked_div(batch * tokens).unwrap_or(0);
    let mut outputs = vec![
        floats("last_hidden_state", vec![batch, tokens, cols], hidden),
        floats("embedding", vec![batch, size], embeddings),
    ];
    let mut made = vec![-1; encoder.route().len()];
    let sites = made.chunks_exact_mut(total.max(1));
    for (made, route) in sites.zip(encoder.route().chunks_exact(total.max(1))) {
        for (place, choice) in places().zip(route) {
            if let Some(at) = place {
                made[at] = *choice;
            }
        }
    }
    outputs.extend(choices(model, total, made));
    Ok((usage, outputs))
}
