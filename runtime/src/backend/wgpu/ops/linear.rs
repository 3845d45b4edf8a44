//! The linear op, and the linears that adaptive ops are made of.

use limbeck_plan::{Activation, Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, QUANT_BLOCK};

use super::rows::{norm_flags, normalised};
use super::{flag, lacks, number};
use crate::backend::lower::{Instruction, NormCall};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::{FEW_ROWS, FewRows, Form, Part, Shader};
use crate::error::Result;

/// Rows of the weight and of the call that a group has where there are many.
const MANY: [usize; 2] = [64, 32];
/// Rows of the weight that a group has where there are few of the call.
const FEW: usize = 16;
/// Blocks of columns that a group rounds.
const ROUNDED: usize = 128;

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
    let (format, cols) = (w.format, w.cols);
    let (tokens, share, out) = (work.tokens, work.share, work.out);
    let part = work.part.kind();
    let many = tokens > FEW_ROWS;
    let one = tokens == 1 || part == Part::Routed;
    let rounded = match part {
        Part::Whole | Part::Limited => rounds(format, tokens),
        Part::Routed => many && rounds(format, tokens),
        Part::Window => false,
    };
    let ready = if rounded {
        Some(round(rec, &work, format, cols)?)
    } else if many {
        let norm = work.norm.take();
        Some(normalised(rec, norm, work.x.clone(), [tokens, cols])?)
    } else {
        None
    };
    if rounded {
        (work.norm, work.factors) = (None, None);
    }
    let x = ready.as_ref().unwrap_or(work.x);
    let few = if one || (format.values.is_quantised() && part == Part::Window) {
        FewRows::One
    } else {
        FewRows::Four
    };
    let flags = flag(work.gated, 1)
        | flag(work.bias.is_some(), 2)
        | flag(work.residual.is_some(), 4)
        | flag(work.last && work.residual.is_some(), 16)
        | if rounded { flag(work.precise, 32) } else { input_flags(&work, cols) };
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
        let (shader, groups) = if many {
            let groups = rows.div_ceil(MANY[0]) * work.part.tiles(tokens);
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
    fn kind(&self) -> Part {
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
            _ => tokens.div_ceil(MANY[1]),
        }
    }
}

/// Tiles that so many rows fill at most where those of each kind begin with one.
fn tiles(rows: usize, kinds: usize) -> usize {
    rows / MANY[1] + kinds.min(rows)
}

/// Words of the order of rows that follow choices of so many kinds.
pub(in crate::backend::wgpu) fn ordered_words(rows: usize, kinds: usize) -> usize {
    tiles(rows, kinds).saturating_mul(MANY[1])
}

/// Puts rows that are many in the order of their choices, of so many kinds, which lie in the buffer from `first` on:
/// tiles of rows then need little more than each of their rows. Of experts a tile has one.
pub(super) fn sort(
    rec: &mut Recorder<'_>,
    (keys, first, stride): (&Slice, usize, usize),
    (rows, kinds): (usize, usize),
    experts: bool,
) -> Result<()> {
    if rows <= FEW_ROWS {
        return Ok(());
    }
    let pad = if experts { MANY[1] } else { 1 };
    let words = [rows, kinds, pad, first, stride, ordered_words(rows, kinds)];
    let ordered = Slice::whole(rec.buffers.ordered);
    rec.dispatch(Shader::Sort, &words.map(|word| word as u32), &[keys, &ordered], 1)
}

/// What a shader is told of what inputs meet before the weight.
fn input_flags(work: &Work<'_>, cols: usize) -> u32 {
    flag(work.factors.is_some(), 8)
        | flag(work.precise, 32)
        | work.norm.map_or(0, |norm| 64 | norm_flags(norm) << 7)
        | flag(!cols.is_multiple_of(4), 512)
}

/// Whether inputs of so many rows are rounded for such a weight, rather than by each group.
fn rounds(format: PackFormat, rows: usize) -> bool {
    format.values.is_quantised() && rows > 1
}

/// Words of rounded inputs; see round.wgsl.
pub(in crate::backend::wgpu) fn rounded_words(
    format: PackFormat,
    [rows, cols]: [usize; 2],
    precise: bool,
) -> usize {
    if !rounds(format, rows) {
        return 0;
    }
    let blocks = cols.div_ceil(QUANT_BLOCK) * if precise { 2 } else { 1 };
    rows.saturating_mul(10 * blocks)
}

/// The inputs of a linear, rounded.
fn round(
    rec: &mut Recorder<'_>,
    work: &Work<'_>,
    format: PackFormat,
    cols: usize,
) -> Result<Slice> {
    let out = Slice::whole(rec.buffers.rounded);
    let none = rec.none();
    let (norm_weight, norm_bias) = match work.norm {
        Some(norm) => (rec.shared.weights.vector(norm.weight)?, &rec.vector_or_none(norm.bias)?),
        None => (&none, &none),
    };
    let (choices, unit_cols) = match work.part {
        WorkPart::Limited { choices, cols, .. } => (choices, cols),
        _ => (0, 0),
    };
    let blocks = cols.div_ceil(QUANT_BLOCK);
    let rows = work.tokens / work.share;
    let words = [rows, cols, blocks, choices, unit_cols].map(|word| word as u32);
    let eps = work.norm.map_or(0.0, |norm| norm.params.eps).to_bits();
    let words = [&words[..], &[eps]].concat();
    let form = Form { flags: input_flags(work, cols), activation: 0 };
    let shader = Shader::Round((format.values.block() / 4) as u32, form);
    let factors = work.factors.as_ref().unwrap_or(&none);
    let bindings = [&out, work.x, norm_weight, norm_bias, factors, &rec.choices()];
    rec.dispatch(shader, &words, &bindings, rows * blocks.div_ceil(ROUNDED))?;
    Ok(out)
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
