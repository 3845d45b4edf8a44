//! From graphs to the program of a plan: values become operands, weights are packed once however
//! many entries and nodes use them.

use std::io::{Seek, Write};

use limbeck_graph::{Graph, Node, TensorExpr, ValueId, ValueSource, macs};
use limbeck_plan::{
    Entry, InputRole, Op, Operand, OperandKind, PlanWriter, Program, Segment, Step, Symbol, Values,
    WIDE_BLOCK,
};

use crate::error::Result;
use crate::import::Checkpoint;
use crate::import::gguf::BlockType;
use crate::pack::{
    PackError, Quant, StreamUse, WeightUse, choose_format, needs_precision, pack_weight,
};
use crate::segments::{self, Choice, SegmentReport};

/// What packing did, by number format.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// Per number format: weights, bytes, and the error of those that were converted to it.
    pub formats: Vec<(Values, usize, u64, PackError)>,
    /// Bytes of all weights.
    pub bytes: u64,
}

/// Packs all weights and builds the program, with segments of the nodes that are chosen in each graph; where it is
/// to be precise, activations meet every quantised weight of a linear in two parts. `progress` hears of each weight: how
/// many are done, of how many, and its name.
pub(crate) fn emit<W: Write + Seek>(
    entries: &[(String, Graph)],
    choices: &[Choice],
    (quant, precise): (Quant, bool),
    checkpoint: &dyn Checkpoint,
    writer: &mut PlanWriter<W>,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<Emitted> {
    let uses = collect_uses(entries, choices);
    let mut program = Program::default();
    let mut packing = Packing::default();
    for (done, (expr, used)) in uses.iter().enumerate() {
        progress(done, uses.len(), &expr.name());
        let storage = expr.storage().and_then(block_type);
        let format = choose_format(quant, *used, storage);
        let (weight, error) = pack_weight(expr, format, checkpoint, writer)?;
        packing.count(weight.format.values, weight.bytes, error.as_ref());
        program.weights.push(weight);
    }
    progress(uses.len(), uses.len(), "");
    let index = |expr: &TensorExpr| uses.iter().position(|(e, _)| e == expr).unwrap_or(0);
    for (name, graph) in entries {
        let first = (program.states.len(), program.sites.len());
        let entry = entry(name, graph, (quant, precise), first, &index);
        program.states.extend(graph.states().iter().cloned());
        program.sites.extend(graph.sites().iter().cloned());
        program.entries.push(entry);
    }
    weigh_sites(&mut program);
    let mut models = Vec::new();
    let mut reports = segments::place(&mut program, checkpoint.parts(), writer, &mut models)?;
    for (index, choice) in choices.iter().enumerate() {
        reports.extend(segments::lower(&mut program, index, choice, &mut models)?);
    }
    Ok(Emitted { program, packing, models, segments: reports })
}

/// What was emitted, but for the weights, which are written.
pub(crate) struct Emitted {
    /// The program.
    pub program: Program,
    /// Formats and conversion errors.
    pub packing: Packing,
    /// Models of ONNX segments.
    pub models: Vec<u8>,
    /// The segments.
    pub segments: Vec<SegmentReport>,
}

impl Packing {
    fn count(&mut self, values: Values, bytes: u64, error: Option<&PackError>) {
        self.bytes += bytes;
        let at = self.formats.iter().position(|f| f.0 == values).unwrap_or_else(|| {
            self.formats.push((values, 0, 0, PackError::default()));
            self.formats.len() - 1
        });
        let format = &mut self.formats[at];
        format.1 += 1;
        format.2 += bytes;
        if let Some(error) = error {
            format.3.add(error);
        }
    }
}

fn block_type(name: &str) -> Option<BlockType> {
    BlockType::ALL.into_iter().find(|t| t.name() == name)
}

/// Every weight once, with all its uses, in the order of first use.
fn collect_uses(entries: &[(String, Graph)], choices: &[Choice]) -> Vec<(TensorExpr, WeightUse)> {
    let mut uses: Vec<(TensorExpr, WeightUse)> = Vec::new();
    for ((_, graph), choice) in entries.iter().zip(choices) {
        for (id, node) in graph.nodes().iter().enumerate() {
            for (role, &value) in node.op.input_roles().into_iter().zip(&node.inputs) {
                let Some(expr) = graph.weight_expr(value) else { continue };
                let at = uses.iter().position(|(e, _)| e == expr).unwrap_or_else(|| {
                    uses.push((expr.clone(), WeightUse::default()));
                    uses.len() - 1
                });
                let whole = role == InputRole::WholeMatrix;
                let matrix = whole || role == InputRole::Matrix;
                let encoder = graph.states().is_empty();
                let stream = if matrix && encoder { stream_use(graph, node, value) } else { None };
                let ends = gives_logits(graph, node) || reads_pixels(graph, node);
                uses[at].1.add(role, matrix && ends, stream);
                uses[at].1.external |= choice.chosen.contains(&id);
                let wide = whole && encoder && expr.cols().is_multiple_of(WIDE_BLOCK);
                uses[at].1.narrow |= !wide;
                uses[at].1.exact |= match &node.op {
                    Op::AdaptiveMlp(_) => role == InputRole::Table,
                    Op::Linear(_) => decides(graph, node),
                    _ => false,
                };
            }
        }
    }
    uses
}

/// Layers that a gate may have behind its first one.
const MAX_GATE: usize = 16;

/// Whether a node's result is the student's logits, but for a cap.
fn gives_logits(graph: &Graph, node: &Node) -> bool {
    let is_logits = |value| graph.outputs().iter().any(|(n, v)| n == "logits" && *v == value);
    let capped = |n: &Node| matches!(n.op, Op::SoftCap(_)) && is_logits(n.output);
    is_logits(node.output) || graph.readers(node.output).any(capped)
}

/// Whether a node sees images as they are given: it has few weights, and all comes through them.
fn reads_pixels(graph: &Graph, node: &Node) -> bool {
    let producer = node.inputs.first().and_then(|x| graph.producer(*x));
    matches!(node.op, Op::Conv2d(_))
        && producer.is_some_and(|at| matches!(graph.nodes()[at].op, Op::Pixels(_)))
}

/// Whether what is chosen or weighed depends on a node's result alone.
pub(crate) fn decides(graph: &Graph, node: &Node) -> bool {
    feeds_choice(graph, node, MAX_GATE) || weighs(graph, node.output)
}

/// Whether a value is logits by which others are chosen or weighed.
fn weighs(graph: &Graph, value: ValueId) -> bool {
    graph.readers(value).any(|node| match &node.op {
        Op::MoeMlp(_) => node.inputs.get(1) == Some(&value),
        Op::Mix(_) => node.inputs.first() == Some(&value),
        _ => false,
    })
}

/// Whether a node's result goes through up to `layers` linears to choices and nowhere else: it is a gate's layer.
fn feeds_choice(graph: &Graph, node: &Node, layers: usize) -> bool {
    let mut readers = graph.readers(node.output).peekable();
    readers.peek().is_some()
        && graph.outputs().iter().all(|(_, v)| *v != node.output)
        && readers.all(|reader| match &reader.op {
            Op::Choose(_) => true,
            Op::Linear(_) if layers > 0 => {
                reader.inputs.first() == Some(&node.output)
                    && feeds_choice(graph, reader, layers - 1)
            }
            _ => false,
        })
}

/// What a node's weight projects the normalised stream to, if that is what it multiplies.
fn stream_use(graph: &Graph, node: &Node, weight: ValueId) -> Option<StreamUse> {
    let producer = &graph.nodes()[graph.producer(*node.inputs.first()?)?];
    if !matches!(producer.op, Op::Norm(_)) {
        return None;
    }
    if matches!(node.op, Op::AdaptiveMlp(_)) {
        let w1 = node.inputs.get(2) == Some(&weight);
        return w1.then_some(StreamUse::Mlp);
    }
    let attends = graph.readers(node.output).any(|n| matches!(n.op, Op::Attention(_)));
    Some(if attends { StreamUse::Attention } else { StreamUse::Mlp })
}

/// Multiplies each site's weight by its multiply-adds per token at its largest choice, over their
/// mean: then the price means the same at every site.
fn weigh_sites(program: &mut Program) {
    let mut macs = vec![0.0; program.sites.len()];
    for entry in &program.entries {
        let mut site_of = vec![None; entry.operands.len()];
        for step in entry.steps() {
            let site = match &step.op {
                Op::Choose(p) => {
                    step.outputs.iter().for_each(|id| site_of[*id] = Some(p.site));
                    None
                }
                Op::AdaptiveMlp(_) => step.inputs.get(1).and_then(|id| site_of[*id]),
                Op::MoeMlp(p) => Some(p.site),
                _ => None,
            };
            let one = |name: &str| (name == Symbol::TOKENS).then_some(1);
            if let (Some(site), Some(cost)) = (site, step.macs.eval(&one)) {
                macs[site] += cost as f64;
            }
        }
    }
    let mean = macs.iter().sum::<f64>() / macs.len().max(1) as f64;
    for (site, macs) in program.sites.iter_mut().zip(macs).filter(|(_, macs)| *macs > 0.0) {
        site.weight *= macs / mean;
    }
}

fn entry(
    name: &str,
    graph: &Graph,
    (quant, precise): (Quant, bool),
    (first_state, first_site): (usize, usize),
    weight_index: &dyn Fn(&TensorExpr) -> usize,
) -> Entry {
    let output_name = |id: ValueId| graph.outputs().iter().find(|(_, v)| *v == id).map(|o| &o.0);
    let operands = graph.values().iter().enumerate().map(|(id, value)| {
        let named = output_name(id);
        let kind = match &value.source {
            ValueSource::Input => OperandKind::Input,
            ValueSource::Weight(expr) => OperandKind::Weight(weight_index(expr)),
            ValueSource::Node if named.is_some() => OperandKind::Output,
            ValueSource::Node => OperandKind::Scratch,
        };
        Operand { name: named.unwrap_or(&value.name).clone(), kind, fact: value.fact.clone() }
    });
    let steps = graph.nodes().iter().map(|node| {
        let facts: Vec<_> = node.inputs.iter().map(|&v| &graph.value(v).fact).collect();
        let mut op = node.op.clone();
        match &mut op {
            Op::Attention(p) => p.state = p.state.map(|s| s + first_state),
            Op::Choose(p) => p.site += first_site,
            Op::MoeMlp(p) => p.site += first_site,
            Op::Linear(p) => {
                // What is equalised loses less than the other way would win back.
                let weight = node.inputs.get(1).filter(|_| !p.factors);
                let stream = weight.and_then(|w| stream_use(graph, node, *w));
                let logits = gives_logits(graph, node);
                p.precise = precise || needs_precision(quant, logits, stream);
            }
            _ => (),
        }
        Step {
            name: node.name.clone(),
            macs: macs(&node.op, &facts, &graph.value(node.output).fact),
            op,
            inputs: node.inputs.clone(),
            outputs: node.outputs().collect(),
        }
    });
    Entry {
        name: name.into(),
        operands: operands.collect(),
        segments: vec![Segment { steps: steps.collect() }],
    }
}
