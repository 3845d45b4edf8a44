//! Dense plans turned into plans whose linears can leave out input channels.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use limbeck_kernels::{Packed, repack_tile};
use limbeck_plan::{
    DType, Dim, Entry, Fact, Layout, Level, Op, Operand, OperandKind, PackFormat, Plan, Program,
    Site, SiteKind, SparseLinear, Step, Symbol, Weight, channel_tile_rows,
};

use crate::error::{Error, Result};
use crate::write::{Metadata, replace_plan};

/// Bytes of weights that are copied at a time.
const COPY_BYTES: usize = 1 << 20;
/// The site's name.
const NAME: &str = "sparsity";

/// Writes `plan` anew to `output` with one site of kind sparsity, which its 4-bit linears over the
/// rows of a call follow: their weights are repacked into channels, value for value, and get the
/// Euclidean norms of their columns as the weights of channels. The site has one choice, which
/// leaves nothing out: see [`set_levels`].
///
/// # Errors
/// A plan with such a site, without such linears, or with damaged weights, or a file that cannot be
/// written.
pub fn sparsify(
    plan: &Plan,
    bytes: &[u8],
    output: &Path,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<()> {
    let mut program = plan.program().clone();
    if program.sites.iter().any(|site| site.kind == SiteKind::Sparsity) {
        return Err(Error::mismatch("the plan has a site of kind sparsity already"));
    }
    let chosen = choose(&program);
    if chosen.is_empty() {
        return Err(Error::mismatch("the plan has no 4-bit linear whose input could be sparse"));
    }
    plan.verify(bytes)?;
    replace_plan(output, |writer| {
        let count = program.weights.len();
        let mut norms = Vec::new();
        for id in 0..count {
            let weight = program.weights[id].clone();
            progress(id, count, &weight.name);
            let data = plan.weight_bytes(bytes, &weight);
            let offset = writer.begin_weight()?;
            program.weights[id].offset = offset;
            if !chosen.contains(&id) {
                data.chunks(COPY_BYTES).try_for_each(|part| writer.append(part))?;
                continue;
            }
            let packed = Packed::new(weight.format, weight.rows, weight.cols, data)?;
            let mut tile = Vec::new();
            let mut written = 0;
            for index in 0..weight.rows.div_ceil(channel_tile_rows(weight.rows)) {
                tile.clear();
                repack_tile(&packed, index, &mut tile)?;
                writer.append(&tile)?;
                written += tile.len() as u64;
            }
            let format = PackFormat { layout: Layout::Channels, ..weight.format };
            program.weights[id].format = format;
            program.weights[id].bytes = written;
            norms.push((id, column_norms(&packed)?));
        }
        let mut channels = HashMap::new();
        for (id, norms) in norms {
            let offset = writer.begin_weight()?;
            let data: Vec<u8> = norms.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.append(&data)?;
            channels.insert(id, program.weights.len());
            program.weights.push(Weight {
                name: format!("column norms of {}", program.weights[id].name),
                format: PackFormat::F32_ROW,
                rows: 1,
                cols: norms.len(),
                offset,
                bytes: data.len() as u64,
            });
        }
        add_site(&mut program, &channels);
        progress(count, count, "");
        let (manifest, tokenizer) = (plan.manifest().clone(), plan.tokenizer(bytes));
        Ok((Metadata { manifest, program, tokenizer, calibration: None }, ()))
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

/// The weights in 4-bit quads that one linear over the call's tokens reads, and nothing else.
fn choose(program: &Program) -> HashSet<usize> {
    let mut readers: HashMap<usize, (usize, bool)> = HashMap::new();
    for entry in &program.entries {
        for step in entry.steps() {
            for (at, id) in step.inputs.iter().enumerate() {
                let OperandKind::Weight(w) = entry.operands[*id].kind else { continue };
                let reader = readers.entry(w).or_insert((0, false));
                reader.0 += 1;
                reader.1 = at == 1 && is_sparse_able(entry, step);
            }
        }
    }
    let fits = |w: &usize| {
        let format = program.weights[*w].format;
        format.layout == Layout::Quads && format.values.channel_row_bytes().is_some()
    };
    let chosen =
        readers.into_iter().filter(|(w, (count, linear))| *count == 1 && *linear && fits(w));
    chosen.map(|(w, _)| w).collect()
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
