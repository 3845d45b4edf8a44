//! What a manifest's task promises of a plan's entries, on which sessions, encoders and classifiers rely.

use std::collections::HashSet;

use limbeck_plan::{
    DType, Dim, Entry, Manifest, Op, Operand, OperandKind, Plan, Site, SiteKind, Symbol, Task,
};

use crate::classify;
use crate::error::{Error, ErrorKind, Result};

/// Refuses a plan that is not as its manifest says.
///
/// # Errors
/// What differs, with its entry and its step or operand.
pub(crate) fn check(plan: &Plan) -> Result<()> {
    let manifest = plan.manifest();
    let promise = match manifest.task {
        Task::Text => Promise::text(manifest),
        Task::Embed => Promise::embed(manifest),
        Task::Classify => Promise::classify(),
        Task::Tensors => {
            return check_tensors(plan, Manifest::TENSORS_ENTRY, plan.program().sites.first());
        }
        Task::Diffuse => return check_sampler(plan),
    };
    if plan.program().sampler.is_some() {
        return fail("the plan has a sampler, which its task has no use for");
    }
    let entry = find(plan, promise.entry)?;
    if manifest.context_length == 0 || manifest.context_length > Manifest::MAX_CONTEXT {
        return fail(format!("manifest: a context of {} is out of range", manifest.context_length));
    }
    check_attention(entry, manifest.task == Task::Text)?;
    check_inputs(entry, promise.inputs)?;
    if manifest.task == Task::Classify {
        check_images(entry, manifest.context_length)?;
    }
    promise.outputs.iter().try_for_each(|output| check_output(entry, output))
}

/// The entry of a task, and what it takes and gives.
struct Promise {
    entry: &'static str,
    inputs: &'static [&'static str],
    outputs: Vec<Output>,
}

/// A matrix that an entry gives.
struct Output {
    name: &'static str,
    /// The symbol of its rows.
    rows: &'static str,
    /// `None` where the manifest does not say them.
    cols: Option<usize>,
}

impl Promise {
    fn text(manifest: &Manifest) -> Promise {
        let cols = Some(manifest.vocab_size);
        Promise {
            entry: Manifest::TEXT_ENTRY,
            inputs: &["input_ids"],
            outputs: vec![Output { name: "logits", rows: Symbol::OUTPUTS, cols }],
        }
    }

    fn embed(manifest: &Manifest) -> Promise {
        let cols = Some(manifest.embedding_size);
        Promise {
            entry: Manifest::EMBED_ENTRY,
            inputs: &["input_ids", "positions"],
            outputs: vec![
                Output { name: "last_hidden_state", rows: Symbol::TOKENS, cols: None },
                Output { name: "embedding", rows: Symbol::SEQUENCES, cols },
            ],
        }
    }

    fn classify() -> Promise {
        Promise {
            entry: Manifest::CLASSIFY_ENTRY,
            inputs: &[classify::PIXELS, "positions"],
            outputs: vec![Output { name: "logits", rows: Symbol::SEQUENCES, cols: None }],
        }
    }
}

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Plan, message.into()))
}

fn find<'a>(plan: &'a Plan, name: &str) -> Result<&'a Entry> {
    let missing = || Error::new(ErrorKind::Plan, format!("the plan has no entry {name:?}"));
    plan.program().entry(name).ok_or_else(missing)
}

/// Text attends to what came before and keeps it; the others do neither.
fn check_attention(entry: &Entry, text: bool) -> Result<()> {
    let differs = entry.steps().find(|step| match &step.op {
        Op::Attention(p) => (p.causal, p.state.is_some()) != (text, text),
        _ => false,
    });
    let Some(step) = differs else { return Ok(()) };
    let wanted = if text { "causal with a state" } else { "neither causal nor stateful" };
    fail(format!("{}: its attention is not {wanted}", entry.place(&step.name)))
}

fn check_inputs(entry: &Entry, inputs: &[&str]) -> Result<()> {
    let (name, mut seen) = (&entry.name, HashSet::new());
    for (_, input) in entry.operands_of(OperandKind::Input) {
        if !inputs.contains(&input.name.as_str()) || !seen.insert(&input.name) {
            return fail(format!("entry {name:?} has an unknown input {:?}", input.name));
        }
        let floats = input.fact.dtype == DType::F32;
        if !input.fact.is_of_call() || floats != (input.name == classify::PIXELS) {
            return fail(format!("entry {name:?}: input {:?} is {}", input.name, input.fact));
        }
    }
    Ok(())
}

/// An image has as many tokens as the manifest's context.
fn check_images(entry: &Entry, context: usize) -> Result<()> {
    let tokens = classify::interface(entry).map(|found| found.tokens);
    if tokens == Some(context) {
        return Ok(());
    }
    let (name, found) = (&entry.name, tokens.map(|n| format!("images of {n} tokens")));
    let found = found.unwrap_or_else(|| "no image".into());
    fail(format!("entry {name:?} takes {found}, the manifest says {context} tokens"))
}

fn check_output(entry: &Entry, &Output { name: output, rows, cols }: &Output) -> Result<()> {
    let name = &entry.name;
    let found = entry.operands_of(OperandKind::Output).find(|(_, o)| o.name == output);
    let Some((_, operand)) = found else {
        return fail(format!("entry {name:?} has no output {output:?}"));
    };
    let fits = match operand.fact.shape.as_slice() {
        [r, c] => *r == Dim::symbol(rows) && cols.is_none_or(|cols| *c == Dim::from(cols)),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let cols = cols.map_or("...".into(), |cols| cols.to_string());
    let fact = &operand.fact;
    fail(format!("entry {name:?}: output {output:?} is {fact}, the manifest says [{rows}, {cols}]"))
}

/// A student that denoises has a sampler, whose entries are of tensors, and no other site.
fn check_sampler(plan: &Plan) -> Result<()> {
    let program = plan.program();
    let Some(sampler) = &program.sampler else {
        return fail("the plan does not say how samples are made");
    };
    let others = program.sites.iter().find(|site| site.kind != SiteKind::Steps);
    check_tensors(plan, Manifest::DENOISE_ENTRY, others)?;
    let rows = sampler.tables.iter().flat_map(|table| &table.rows);
    let names: HashSet<&str> = rows.map(|row| row.entry.as_str()).collect();
    names.into_iter().try_for_each(|name| check_tensors(plan, name, others))
}

/// A call of tensors has neither tokens nor sequences, and no choices: `site` is one that it would have.
fn check_tensors(plan: &Plan, name: &str, site: Option<&Site>) -> Result<()> {
    let entry = find(plan, name)?;
    if let Some(site) = site {
        return fail(format!("site {:?} chooses for tokens, which tensors have not", site.name));
    }
    let mut seen = HashSet::new();
    for operand in &entry.operands {
        // What is given and what is returned have names of their own.
        let is_output = operand.kind == OperandKind::Output;
        let outside = is_output || operand.kind == OperandKind::Input;
        if outside && !seen.insert((is_output, &operand.name)) {
            return fail(format!("entry {name:?} has two tensors {:?}", operand.name));
        }
        if operand.fact.is_of_rows() {
            let Operand { name: operand, fact, .. } = operand;
            return fail(format!("entry {name:?}: {operand:?} is {fact}, of tokens or sequences"));
        }
    }
    Ok(())
}
