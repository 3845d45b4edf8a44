//! Linears that leave out small channels.

use super::LANES;
use super::linear::{Work, WorkPart, dispatch};
use super::rows::normalised;
use crate::backend::lower::Instruction;
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn sparse_linear(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::SparseLinear {
        params: p,
        x,
        norm,
        weight,
        bias,
        residual,
        site,
        channels,
        out,
    } = instruction
    else {
        return Ok(());
    };
    let cols = rec.shared.weights.get(*weight)?.cols;
    let count = rec.sizes.len(*x);
    let tokens = count / cols.max(1);
    let choices = rec.layout.forced + site * tokens;
    let words = [count, cols, choices, rec.next_kept()].map(|word| word as u32);
    let thresholds: Vec<u32> = p.thresholds.iter().map(|t| t.to_bits()).collect();
    let thresholds = rec.constants(&thresholds)?;
    let given = normalised(rec, norm.as_ref(), rec.value(*x)?, [tokens, cols])?;
    let kept = Slice::whole(rec.buffers.hidden);
    let (call, made) = (rec.call(), rec.choices());
    let channels = rec.shared.weights.vector(*channels)?;
    let bindings = [&call, &given, channels, &thresholds, &kept, &made];
    rec.dispatch(Shader::Keep, &words, &bindings, count.div_ceil(LANES))?;
    let bias = bias.map(|id| rec.shared.weights.vector(id).cloned()).transpose()?;
    let residual = residual.map(|value| rec.value(value)).transpose()?;
    let work = Work {
        weight: *weight,
        tokens,
        share: 1,
        x: &kept,
        norm: None,
        bias,
        residual,
        factors: None,
        activation: p.linear.activation,
        gated: p.linear.gated,
        last: false,
        precise: p.linear.precise,
        out: &rec.value(*out)?,
        part: WorkPart::Whole,
    };
    dispatch(rec, work)
}
