//! Dense plans turned into plans whose linears can leave out input channels.

use std::collections::HashMap;
use std::path::Path;

use limbeck_kernels::{Packed, repack_tile};
use limbeck_plan::{
    DType, Dim, Entry, Fact, Level, Op, Operand, OperandKind, PackFormat, Plan, Program, Site,
    SiteKind, SparseLinear, Step, Symbol, Weight,
};

use crate::error::{Error, Result};
use crate::write::{Metadata, replace_plan};

/// Bytes of weights that are copied at a time.
const COPY_BYTES: usize = 1 << 20;
/// The site's name.
const NAME: &str = "sparsity";

/// Weights of input channels by the name of the step that multiplies with them.
pub type ChannelWeights = HashMap<String, Vec<f32>>;

/// Writes `plan` anew to `output` with one site of kind sparsity, which its linears in f16, q8 or q4
/// over the rows of a call follow: their weights are repacked by channel, value for value. Channels are
/// weighed by `weights`, or by the Euclidean norms of their columns where a linear is not in there.
/// The site has one choice, which leaves nothing out: see [`set_levels`].
///
/// # Errors
/// A plan with such a site, without such linears, or with damaged weights; weights of channels that
/// are not a linear's or not finite and at least 0; or a file that cannot be written.
pub fn sparsify(
    plan: &Plan,
    bytes: &[u8],
    weights: &ChannelWeights,
    output: &Path,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<()> {
    let mut program = plan.program().clone();
    if program.sites.iter().any(|site| site.kind == SiteKind::Sparsity) {
        return Err(Error::mismatch("the plan has a site of kind sparsity already"));
    }
    let is_segment = |step: &Step| matches!(step.op, Op::Onnx(_));
    if program.entries.iter().flat_map(Entry::steps).any(is_segment) {
        // Their models say where weights lie.
        return Err(Error::unsupported("the plan has ONNX segments: compile it without them"));
    }
    let chosen = choose(&program);
    if chosen.is_empty() {
        return Err(Error::mismatch(
            "the plan has no linear in f16, q8 or q4 whose input could be sparse",
        ));
    }
    check_weights(&program, &chosen, weights)?;
    plan.verify(bytes)?;
    replace_plan(output, |writer| {
        let count = program.weights.len();
        let mut by_weight = Vec::new();
        for id in 0..count {
            let weight = program.weights[id].clone();
            progress(id, count, &weight.name);
            let data = plan.weight_bytes(bytes, &weight);
            let offset = writer.begin_weight()?;
            program.weights[id].offset = offset;
            let (Some(step), Some(format)) = (chosen.get(&id), weight.format.in_channels()) else {
                data.chunks(COPY_BYTES).try_for_each(|part| writer.append(part))?;
                continue;
            };
            let packed = Packed::new(weight.format, weight.rows, weight.cols, data)?;
            let mut tile = Vec::new();
            let mut written = 0;
            for index in 0..weight.rows.div_ceil(format.tile_rows(weight.rows)) {
                tile.clear();
                repack_tile(&packed, format.layout, index, &mut tile)?;
                writer.append(&tile)?;
                written += tile.len() as u64;
            }
            program.weights[id].format = format;
            program.weights[id].bytes = written;
            by_weight.push((
                id,
                match weights.get(step) {
                    Some(weights) => weights.clone(),
                    None => column_norms(&packed)?,
                },
            ));
        }
        let mut channels = HashMap::new();
        for (id, weights) in by_weight {
            let offset = writer.begin_weight()?;
            let data: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.append(&data)?;
            channels.insert(id, program.weights.len());
            program.weights.push(Weight {
                name: format!("channels of {}", program.weights[id].name),
                format: PackFormat::F32_ROW,
                rows: 1,
                cols: weights.len(),
                offset,
                bytes: data.len() as u64,
            });
        }
        add_site(&mut program, &channels);
        progress(count, count, "");
        let (manifest, tokenizer) = (plan.manifest().clone(), plan.tokenizer(bytes));
        let models = Default::default();
        Ok((Metadata { manifest, program, tokenizer, calibration: None, models }, ()))
    })
}

/// One choice of the site: what leaving channels out gains (less than 0) and costs, and each sparse
/// linear's threshold, in the order of steps.
#[derive(Clone, Debug)]
pub struct SparsityLevel {
    /// Against other levels: minus the loss.
    pub gain: f64,
    /// Multiply-adds of the sparse linears relative to all of theirs.
    pub cost: f64,
    /// By sparse linear.
    pub thresholds: Vec<f32>,
}

/// Gives the sparsity site these choices, by rising cost, and full compute as the last.
pub fn set_levels(program: &mut Program, levels: &[SparsityLevel]) {
    let costs: Vec<f64> = levels.iter().map(|l| l.cost.clamp(0.0, 1.0)).chain([1.0]).collect();
    let gains: Vec<f64> = levels.iter().map(|l| l.gain).chain([0.0]).collect();
    for site in program.sites.iter_mut().filter(|s| s.kind == SiteKind::Sparsity) {
        site.costs.clone_from(&costs);
    }
    let mut index = 0;
    for step in steps_mut(program) {
        match &mut step.op {
            Op::Level(level) => level.gains.clone_from(&gains),
            Op::SparseLinear(linear) => {
                let of = |l: &SparsityLevel| l.thresholds.get(index).copied().unwrap_or(0.0);
                linear.thresholds = levels.iter().map(of).chain([0.0]).collect();
                index += 1;
            }
            _ => {}
        }
    }
}

fn steps_mut(program: &mut Program) -> impl Iterator<Item = &mut Step> {
    let segments = program.entries.iter_mut().flat_map(|e| &mut e.segments);
    segments.flat_map(|s| &mut s.steps)
}

/// The weights that may lie by channel and that one linear over the call's tokens reads, and nothing
/// else, with the name of its step. Those in f32, gates and routers among them, stay as they are.
fn choose(program: &Program) -> HashMap<usize, String> {
    let mut readers: HashMap<usize, (usize, Option<&str>)> = HashMap::new();
    for entry in &program.entries {
        for step in entry.steps() {
            for (at, id) in step.inputs.iter().enumerate() {
                let OperandKind::Weight(w) = entry.operands[*id].kind else { continue };
                let reader = readers.entry(w).or_insert((0, None));
                reader.0 += 1;
                reader.1 = (at == 1 && is_sparse_able(entry, step)).then_some(&step.name);
            }
        }
    }
    let fits = |w: &usize| program.weights[*w].format.in_channels().is_some();
    let chosen = readers.into_iter().filter(|(w, (count, _))| *count == 1 && fits(w));
    chosen.filter_map(|(w, (_, step))| Some((w, step?.to_owned()))).collect()
}

fn check_weights(
    program: &Program,
    chosen: &HashMap<usize, String>,
    weights: &ChannelWeights,
) -> Result<()> {
    for (id, step) in chosen {
        let cols = program.weights[*id].cols;
        let sound = |w: &f32| w.is_finite() && *w >= 0.0;
        if weights.get(step).is_some_and(|w| w.len() != cols || !w.iter().all(sound)) {
            let message = format!("{step} wants {cols} weights of channels, finite and at least 0");
            return Err(Error::mismatch(message));
        }
    }
    Ok(())
}

fn is_sparse_able(entry: &Entry, step: &Step) -> bool {
    let rows = step.inputs.first().and_then(|x| entry.operands[*x].fact.shape.first());
    matches!(step.op, Op::Linear(_)) && rows == Some(&Dim::symbol(Symbol::TOKENS))
}

fn column_norms(weight: &Packed<'_>) -> Result<Vec<f32>> {
    let mut row = vec![0.0; weight.cols()];
    let mut squares = vec![0.0f64; weight.cols()];
    for r in 0..weight.rows() {
        weight.unpack_row(r, &mut row)?;
        squares.iter_mut().zip(&row).for_each(|(s, v)| *s += f64::from(*v).powi(2));
    }
    Ok(squares.into_iter().map(|s| s.sqrt() as f32).collect())
}

/// Adds the site and its step to the entry whose linears read the weights in `channels`, a map to
/// their weights of channels.
fn add_site(program: &mut Program, channels: &HashMap<usize, usize>) {
    for entry in &mut program.entries {
        let choice = entry.operands.len();
        let mut follows = false;
        for step in entry.segments.iter_mut().flat_map(|s| &mut s.steps) {
            let Some(&w) = step.inputs.get(1) else { continue };
            let OperandKind::Weight(w) = entry.operands[w].kind else { continue };
            let (Op::Linear(linear), Some(&norms)) = (&step.op, channels.get(&w)) else { continue };
            step.op =
                Op::SparseLinear(SparseLinear { linear: linear.clone(), thresholds: vec![0.0] });
            if !follows {
                entry.operands.push(Operand {
                    name: NAME.into(),
                    kind: OperandKind::Scratch,
                    fact: Fact::new(DType::I32, vec![Dim::symbol(Symbol::TOKENS)]),
                });
                follows = true;
            }
            let cols = program.weights[norms].cols;
            let own = entry.operands.len();
            entry.operands.push(Operand {
                name: program.weights[norms].name.clone(),
                kind: OperandKind::Weight(norms),
                fact: Fact::new(DType::F32, vec![Dim::Const(1), Dim::from(cols)]),
            });
            step.inputs.extend([choice, own]);
        }
        if !follows {
            continue;
        }
        let level = Step {
            name: NAME.into(),
            op: Op::Level(Level { site: program.sites.len(), gains: vec![0.0] }),
            inputs: Vec::new(),
            outputs: vec![choice],
            macs: Dim::Const(0),
        };
        if let Some(segment) = entry.segments.first_mut() {
            segment.steps.insert(0, level);
        }
        let name = match program.sites.iter().any(|s| s.name == NAME) {
            true => format!("{NAME} of {}", entry.name),
            false => NAME.into(),
        };
        let kind = SiteKind::Sparsity;
        program.sites.push(Site { name, kind, first: 0, costs: vec![1.0], weight: 1.0 });
    }
}
