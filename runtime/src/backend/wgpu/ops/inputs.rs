//! What the inputs of a linear become before it.

use limbeck_plan::{PackFormat, QUANT_BLOCK};

use super::flag;
use super::linear::{Work, WorkPart};
use super::rows::{norm_flags, normalised};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::{FEW_ROWS, Form, Part, Shader};
use crate::error::Result;

/// Blocks of columns that a group rounds.
const ROUNDED: usize = 128;

/// Makes the inputs of several rows ready, which else each group of the linear would for itself, and takes from the work
/// what it has done: they are rounded for weights in bytes, behind a norm that there may be, and for others there is the
/// norm alone. `None` where the linear reads them as they are.
pub(super) fn make_ready(
    rec: &mut Recorder<'_>,
    work: &mut Work<'_>,
    format: PackFormat,
    cols: usize,
) -> Result<Option<Slice>> {
    let many = work.tokens > FEW_ROWS;
    let shared = match work.part.kind() {
        Part::Whole | Part::Limited => work.tokens > 1,
        Part::Routed => many,
        Part::Window => false,
    };
    if shared && format.values.is_quantised() {
        let bytes = round(rec, work, format, cols)?;
        (work.norm, work.factors) = (None, None);
        return Ok(Some(bytes));
    }
    if many && work.norm.is_some() {
        let x = normalised(rec, work.norm.take(), work.x.clone(), [work.tokens, cols])?;
        return Ok(Some(x));
    }
    Ok(None)
}

/// What a shader is told of what inputs meet before the weight.
pub(super) fn input_flags(work: &Work<'_>, cols: usize) -> u32 {
    flag(work.factors.is_some(), 8)
        | flag(work.precise, 32)
        | work.norm.map_or(0, |norm| 64 | norm_flags(norm) << 7)
        | flag(!cols.is_multiple_of(4), 512)
}

/// Words of so many rounded inputs, whether they are rounded before the linear or not; see round.wgsl.
pub(in crate::backend::wgpu) fn rounded_words(
    format: PackFormat,
    [rows, cols]: [usize; 2],
    precise: bool,
) -> usize {
    if !format.values.is_quantised() {
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
