//! Ops on whole rows: embedding, norm, select_rows, pool.

use limbeck_plan::{NormKind, Pool, Pooling, QUANT_BLOCK};

use super::{LANES, flag};
use crate::backend::lower::{Ids, Instruction, NormCall};
use crate::backend::slots::{Unit, Value};
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn embedding(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Embedding { ids, table, scale, out } = instruction else { return Ok(()) };
    let (ids, first) = match ids {
        Ids::Input(index) => (rec.call(), rec.layout.inputs.get(*index).copied().unwrap_or(0)),
        Ids::Value(value) => (rec.value(*value)?, 0),
    };
    let table = rec.shared.weights.get(*table)?;
    let tokens = rec.sizes.len(*out) / table.cols.max(1);
    let blocks = table.cols.div_ceil(QUANT_BLOCK);
    let (target, made) = (rec.value(*out)?, rec.choices());
    for shard in &table.shards {
        let params = [
            tokens as u32,
            table.cols as u32,
            blocks as u32,
            shard.first as u32,
            shard.rows as u32,
            first as u32,
            scale.to_bits(),
            table.rows as u32,
            rec.number() as u32,
            rec.made.fault() as u32,
        ];
        let groups = (tokens * blocks * 4).div_ceil(LANES);
        let bindings = [&shard.slice, &ids, &target, &made];
        rec.dispatch(Shader::Embedding(table.format), &params, &bindings, groups)?;
    }
    Ok(())
}

pub(super) fn norm(rec: &mut Recorder<'_>, call: &NormCall, x: Value, out: Value) -> Result<()> {
    let rows = rec.sizes.len(out) / out.cols.max(1);
    dispatch_norm(rec, call, &rec.value(x)?, &rec.value(out)?, [rows, out.cols])
}

/// How shaders know a norm: 1 for one around the mean, 2 for one with a bias.
pub(super) fn norm_flags(call: &NormCall) -> u32 {
    flag(call.params.kind == NormKind::Layer, 1) | flag(call.bias.is_some(), 2)
}

/// What the norm makes of `[rows, cols]`, where there is one.
pub(super) fn normalised(
    rec: &mut Recorder<'_>,
    call: Option<&NormCall>,
    x: Slice,
    sizes: [usize; 2],
) -> Result<Slice> {
    let Some(call) = call else { return Ok(x) };
    let out = Slice::whole(rec.buffers.normed);
    dispatch_norm(rec, call, &x, &out, sizes)?;
    Ok(out)
}

fn dispatch_norm(
    rec: &mut Recorder<'_>,
    call: &NormCall,
    x: &Slice,
    out: &Slice,
    [rows, cols]: [usize; 2],
) -> Result<()> {
    let params = [rows as u32, cols as u32, call.params.eps.to_bits(), norm_flags(call)];
    let weight = rec.shared.weights.vector(call.weight)?;
    let bias = rec.vector_or_none(call.bias)?;
    rec.dispatch(Shader::Norm, &params, &[x, weight, &bias, out], rows)
}

pub(super) fn select(rec: &mut Recorder<'_>, x: Value, out: Value) -> Result<()> {
    let rows = rec.sizes.units(Unit::Outputs);
    let params = [rows as u32, out.cols as u32, rec.layout.outputs as u32];
    let groups = (rows * out.cols).div_ceil(LANES);
    let (x, out) = (rec.value(x)?, rec.value(out)?);
    rec.dispatch(Shader::SelectRows, &params, &[&rec.call(), &x, &out], groups)
}

pub(super) fn pool(rec: &mut Recorder<'_>, params: &Pool, x: Value, out: Value) -> Result<()> {
    let sequences = rec.sizes.units(Unit::Sequences);
    let rule = match params.pooling {
        Pooling::Mean => 0,
        Pooling::Cls => 1,
        Pooling::Last => 2,
    };
    // Images have as many rows each.
    let each = if x.unit == Unit::Sequences { x.rows } else { 0 };
    let words = [
        sequences as u32,
        out.cols as u32,
        rule,
        flag(params.normalise, 1),
        rec.layout.sequences as u32,
        each as u32,
    ];
    let (x, out) = (rec.value(x)?, rec.value(out)?);
    rec.dispatch(Shader::Pool, &words, &[&rec.call(), &x, &out], sequences)
}
