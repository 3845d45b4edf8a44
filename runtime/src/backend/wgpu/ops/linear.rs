//! The linear op, and the linears that adaptive ops are made of.

use limbeck_plan::{Activation, Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, QUANT_BLOCK};

use super::inputs::{input_flags, make_ready};
use super::order::{TILE, tiles};
use super::{flag, lacks, number};
use crate::backend::lower::{Instruction, NormCall};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::{FEW_ROWS, FewRows, Form, Part, Shader};
use crate::error::Result;

/// Rows of the weight that a group has where there are many of the call.
const MANY: usize = 64;
/// Rows of the weight that a group has where there are few of the call.
const FEW: usize = 16;

/// A linear and what it is of.
pub(super) struct Work<'a> {
    pub weight: usize,
    /// Rows of the call, and how many of them share a row of the input.
    pub tokens: usize,
    pub share: usize,
    pub x: &'a Slice,
    /// What the input meets first, where it meets all of a weight.
    pub norm: Option<&'a NormCall>,
    pub bias: Option<Slice>,
    pub residual: Option<Slice>,
    pub factors: Option<Slice>,
    pub activation: Activation,
    pub gated: bool,
    /// Whether the activation comes after the residual.
    pub last: bool,
    /// Whether activations meet a quantised weight in two parts.
    pub precise: bool,
    pub out: &'a Slice,
    pub part: WorkPart,
}

/// Which part of the weight rows meet.
pub(super) enum WorkPart {
    Whole,
    /// As many times these rows, or these columns, as choices say that begin there.
    Limited {
        choices: usize,
        rows: usize,
        cols: usize,
    },
    /// Those of experts, of so many.
    Routed {
        experts: usize,
    },
    /// The whole; rows are what windows see of images.
    Window([u32; 12]),
}

pub(super) fn linear(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Linear { params, x, norm, weight, bias, residual, factors, out } = instruction
    else {
        return Ok(());
    };
    let cols = rec.shared.weights.get(*weight)?.cols;
    let tokens = rec.sizes.len(*x) / cols.max(1);
    let vector =
        |id: &Option<usize>| id.map(|id| rec.shared.weights.vector(id).cloned()).transpose();
    let (bias, factors) = (vector(bias)?, vector(factors)?);
    let residual = residual.map(|value| rec.value(value)).transpose()?;
    let work = Work {
        weight: *weight,
        tokens,
        share: 1,
        x: &rec.value(*x)?,
        norm: norm.as_ref(),
        bias,
        residual,
        factors,
        activation: params.activation,
        gated: params.gated,
        last: false,
        precise: params.precise,
        out: &rec.value(*out)?,
        part: WorkPart::Whole,
    };
    dispatch(rec, work)
}

/// The dispatches of a linear: one that makes its inputs ready where rows are several, then one for each shard of its
/// weight.
pub(super) fn dispatch(rec: &mut Recorder<'_>, mut work: Work<'_>) -> Result<()> {
    let w = rec.shared.weights.get(work.weight)?;
    let (tokens, share, out) = (work.tokens, work.share, work.out);
    let part = work.part.kind();
    let ready = make_ready(rec, &mut work, w.format, w.cols)?;
    let x = ready.as_ref().unwrap_or(work.x);
    // A row at a time where each has an expert of its own, or the kernel rounds it.
    let rounds_itself = w.format.values.is_quantised() && part == Part::Window;
    let few = match tokens {
        1 => FewRows::One,
        _ if part == Part::Routed || rounds_itself => FewRows::One,
        _ => FewRows::Four,
    };
    let flags = flag(work.gated, 1)
        | flag(work.bias.is_some(), 2)
        | flag(work.residual.is_some(), 4)
        | flag(work.last && work.residual.is_some(), 16)
        | input_flags(&work, w.cols);
    let form = Form { flags, activation: number(work.activation) };
    let none = rec.none();
    let bias = work.bias.as_ref().unwrap_or(&none);
    let residual = work.residual.as_ref().unwrap_or(&none);
    let (norm_weight, norm_bias) = match work.norm {
        Some(norm) => (rec.shared.weights.vector(norm.weight)?, &rec.vector_or_none(norm.bias)?),
        None => (&none, &none),
    };
    let [made, routes, counted, ordered] =
        [rec.buffers.made, rec.buffers.routes, rec.buffers.counted, rec.buffers.ordered]
            .map(Slice::whole);
    // What rows meet that do not choose, or the order of those that do.
    let fifth = match part {
        Part::Whole | Part::Window => work.factors.as_ref().unwrap_or(&none),
        Part::Limited | Part::Routed => &ordered,
    };
    let counter = match work.part {
        WorkPart::Whole | WorkPart::Window(_) => 0,
        WorkPart::Limited { .. } | WorkPart::Routed { .. } => rec.counter(unit_bytes(w.format)?),
    };
    for shard in &w.shards {
        let (mut rows, mut first, mut all, mut base) = (shard.rows, shard.first, w.rows, 0);
        let (mut limits, mut window) = ([0; 3], [0; 12]);
        match work.part {
            WorkPart::Whole => {}
            WorkPart::Limited { choices, rows, cols } => {
                limits = [choices as u32, rows as u32, cols as u32];
            }
            WorkPart::Window(words) => window = words,
            WorkPart::Routed { experts } => {
                let of_expert = w.rows / experts.max(1);
                (rows, first, all, base) = (of_expert, 0, of_expert, shard.first);
            }
        }
        let words = [
            tokens as u32,
            w.cols as u32,
            w.cols.div_ceil(QUANT_BLOCK) as u32,
            rows as u32,
            first as u32,
            all as u32,
            shard.stored as u32,
            share as u32,
            limits[0],
            limits[1],
            limits[2],
            base as u32,
            counter as u32,
        ];
        let eps = work.norm.map_or(0.0, |norm| norm.params.eps).to_bits();
        let words = [&words[..], &window, &[eps]].concat();
        let (shader, groups) = if tokens > FEW_ROWS {
            let groups = rows.div_ceil(MANY) * work.part.tiles(tokens);
            (Shader::LinearMany(w.format, part, form), groups)
        } else {
            let groups = rows.div_ceil(FEW) * tokens.div_ceil(few.count());
            (Shader::LinearFew(w.format, few, part, form), groups)
        };
        let mut bindings = vec![&shard.slice, x, bias, residual, fifth, out];
        match part {
            Part::Whole if shader.bindings().len() > bindings.len() => {
                bindings.extend([norm_weight, norm_bias]);
            }
            Part::Whole | Part::Window => {}
            Part::Limited => bindings.extend([&made, &counted]),
            Part::Routed => bindings.extend([&routes, &counted]),
        }
        rec.count_weights(shard.slice.bytes);
        rec.dispatch(shader, &words, &bindings, groups)?;
    }
    Ok(())
}

impl WorkPart {
    pub fn kind(&self) -> Part {
        match self {
            WorkPart::Whole => Part::Whole,
            WorkPart::Limited { .. } => Part::Limited,
            WorkPart::Routed { .. } => Part::Routed,
            WorkPart::Window(_) => Part::Window,
        }
    }

    /// Tiles of so many rows of the call: each expert's begin with one.
    fn tiles(&self, tokens: usize) -> usize {
        match self {
            WorkPart::Routed { experts } => tiles(tokens, *experts),
            _ => tokens.div_ceil(TILE),
        }
    }
}

/// Bytes of what shaders count of a weight: of a block of 32 columns of a row, or of a float.
fn unit_bytes(format: PackFormat) -> Result<usize> {
    let (rows, blocks) = match format.layout {
        Layout::Quads => (QUAD_ROWS, format.values.block() / QUANT_BLOCK),
        _ => (PANEL_ROWS, 1),
    };
    let cols = if format.layout == Layout::Quads { format.values.block() } else { 1 };
    let bytes =
        format.byte_len(rows, cols).ok_or_else(|| lacks(format_args!("weights in {format}")))?;
    Ok(bytes / rows / blocks)
}
