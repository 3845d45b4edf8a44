//! The attention op: queries, keys and values made ready, then attention.

use limbeck_plan::{Attention, RopeStyle};

use super::flag;
use crate::backend::Call;
use crate::backend::lower::{Instruction, QkvValue};
use crate::backend::slots::Unit;
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::lacks;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::{FEW_ROWS, Heads, Shader};
use crate::error::{Error, ErrorKind, Result};

/// Refuses what shaders lack.
pub(super) fn check(params: &Attention) -> Result<()> {
    room(params)?;
    if !params.causal && params.state.is_some() {
        return Err(lacks("attention that keeps keys and is not causal"));
    }
    Ok(())
}

/// Which shaders have room for its heads.
fn room(params: &Attention) -> Result<Heads> {
    let (found, most) = (params.head_dim, Heads::Large.most());
    let what = format_args!("attention heads of {found} elements, more than {most}");
    Heads::of(found).ok_or_else(|| lacks(what))
}

pub(super) fn attention(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Attention { params: p, qkv, q_norm, k_norm, inv_freq, out, .. } = instruction
    else {
        return Ok(());
    };
    let (tokens, heads) = (rec.sizes.units(Unit::Tokens), room(p)?);
    let (layout, cache) = rec.buffers.keys_and_values(p.state, p.kv_heads, p.head_dim)?;
    let queries = Slice::whole(rec.buffers.queries);
    let turns = rec.entry.turns.iter().position(|turns| {
        Some(turns.weight) == *inv_freq && p.rope.as_ref().is_some_and(|r| r.factor == turns.factor)
    });
    let turns = turns.and_then(|index| rec.layout.turns.get(index)).copied();
    if turns.is_none() && p.rope.is_some() {
        return Err(Error::new(ErrorKind::Backend, "its frequencies were not prepared"));
    }
    let neighbours = p.rope.as_ref().is_some_and(|r| r.style == RopeStyle::Interleaved);
    let flags = flag(p.qk_norm_eps.is_some(), 1)
        | flag(p.rope.is_some(), 2)
        | flag(neighbours, 4)
        | flag(p.fused, 8);
    let prepare = [
        tokens as u32,
        p.heads as u32,
        p.kv_heads as u32,
        p.head_dim as u32,
        layout.padded as u32,
        p.qk_norm_eps.unwrap_or(0.0).to_bits(),
        flags,
        p.rope.as_ref().map_or(0, |r| r.rotary_dim) as u32,
        turns.unwrap_or(0) as u32,
        rec.layout.rows as u32,
        layout.head_words as u32,
        layout.key_words as u32,
    ];
    let [q, k, v] = match qkv {
        QkvValue::Fused(value) => [*value; 3],
        QkvValue::Separate(values) => *values,
    };
    let (q, k, v) = (rec.value(q)?, rec.value(k)?, rec.value(v)?);
    let (q_norm, k_norm) = (rec.vector_or_none(*q_norm)?, rec.vector_or_none(*k_norm)?);
    let call = rec.call();
    let bindings = [&call, &q, &k, &v, &q_norm, &k_norm, &queries, &cache];
    let groups = tokens * (p.heads + 2 * p.kv_heads);
    rec.dispatch(Shader::Prepare(layout.kv, heads), &prepare, &bindings, groups)?;

    let attend = [
        tokens as u32,
        p.heads as u32,
        p.kv_heads as u32,
        p.head_dim as u32,
        layout.padded as u32,
        p.scale.to_bits(),
        p.softcap.unwrap_or(0.0).to_bits(),
        p.window.unwrap_or(0).try_into().unwrap_or(u32::MAX),
        flag(p.causal, 1),
        rec.layout.rows as u32,
        layout.head_words as u32,
        layout.key_words as u32,
        rec.parts as u32,
    ];
    let (out, items) = (rec.value(*out)?, tokens * p.heads);
    let found = if rec.parts > 1 { Slice::whole(rec.buffers.parts) } else { out.clone() };
    let bindings = [&call, &queries, &cache, &found];
    rec.dispatch(Shader::Attend(layout.kv, heads), &attend, &bindings, items * rec.parts)?;
    if rec.parts > 1 {
        let params = [items as u32, p.head_dim as u32, layout.padded as u32, rec.parts as u32];
        rec.dispatch(Shader::AttendParts, &params, &[&found, &out], items)?;
    }
    Ok(())
}

/// Positions that a group has of a head's before several share them: as many as it sees at a time.
const SHARE: usize = 256;
/// The most groups that share a head's positions.
const PARTS: usize = 32;

/// Groups that share the positions that a head sees: one where rows are many or see few.
pub(in crate::backend::wgpu) fn parts_of(call: &Call<'_>) -> usize {
    let seen = call.spans.iter().map(|span| span.start.saturating_add(span.rows)).max();
    match seen {
        Some(seen) if seen > SHARE && call.tokens <= FEW_ROWS => {
            seen.div_ceil(SHARE).next_power_of_two().min(PARTS)
        }
        _ => 1,
    }
}

/// Words of what groups find, where several share a head's positions.
pub(in crate::backend::wgpu) fn found_words(p: &Attention, tokens: usize, parts: usize) -> usize {
    let each = p.head_dim.next_multiple_of(4) + 4;
    if parts > 1 { tokens.saturating_mul(p.heads * parts * each) } else { 0 }
}
