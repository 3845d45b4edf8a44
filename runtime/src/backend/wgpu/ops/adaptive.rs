//! Adaptive ops: choices are made on the device and read there by what follows them.

use limbeck_plan::{Activation, ExpertWeights, GateTransform, MixRule};

use super::linear::{Work, WorkPart, dispatch};
use super::order::sort;
use super::{LANES, flag};
use crate::backend::lower::Instruction;
use crate::backend::slots::Unit;
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn choose(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Choose { params, x, gate, bias } = instruction else { return Ok(()) };
    let tokens = rec.sizes.units(Unit::Tokens);
    let gate_weight = rec.shared.weights.get(*gate)?;
    let words = [
        tokens as u32,
        gate_weight.cols as u32,
        gate_weight.rows as u32,
        params.first as u32,
        flag(params.transform == GateTransform::NegExp2, 1),
        rec.layout.charges.get(params.site).copied().unwrap_or(0) as u32,
        (rec.layout.forced + params.site * tokens) as u32,
        rec.made.choices(params.site) as u32,
    ];
    let (gate, bias) = (rec.shared.weights.vector(*gate)?, rec.shared.weights.vector(*bias)?);
    let (x, made) = (rec.value(*x)?, rec.choices());
    rec.dispatch(Shader::Choose, &words, &[&rec.call(), &x, gate, bias, &made], tokens)
}

pub(super) fn adaptive_mlp(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::AdaptiveMlp { params, x, site, w1, b1, w2, out_bias, residual, out } =
        instruction
    else {
        return Ok(());
    };
    let tokens = rec.sizes.units(Unit::Tokens);
    let (choices, learners) = (rec.made.choices(*site), params.learners.max(1));
    let rows = rec.shared.weights.get(*w1)?.rows / learners;
    let cols = rec.shared.weights.get(*w2)?.cols / learners;
    let vector =
        |id: &Option<usize>| id.map(|id| rec.shared.weights.vector(id).cloned()).transpose();
    let (b1, out_bias) = (vector(b1)?, vector(out_bias)?);
    let residual = residual.map(|value| rec.value(value)).transpose()?;
    let hidden = Slice::whole(rec.buffers.hidden);
    sort(rec, (&rec.choices(), choices, 1), (tokens, learners + 1), false)?;
    let up = Work {
        weight: *w1,
        tokens,
        share: 1,
        x: &rec.value(*x)?,
        norm: None,
        bias: b1,
        residual: None,
        factors: None,
        activation: params.activation,
        gated: params.gated,
        last: false,
        precise: false,
        out: &hidden,
        part: WorkPart::Limited { choices, rows, cols: 0 },
    };
    dispatch(rec, up)?;
    let down = Work {
        weight: *w2,
        tokens,
        share: 1,
        x: &hidden,
        norm: None,
        bias: out_bias,
        residual,
        factors: None,
        activation: Activation::Identity,
        gated: false,
        last: false,
        precise: false,
        out: &rec.value(*out)?,
        part: WorkPart::Limited { choices, rows: 0, cols },
    };
    dispatch(rec, down)
}

pub(super) fn moe_mlp(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::MoeMlp { params: p, x, logits, w1, w2, residual, out } = instruction else {
        return Ok(());
    };
    let tokens = rec.sizes.units(Unit::Tokens);
    let pairs = tokens * p.top_k;
    let (marks, choices) = (rec.made.marks(p.site) as u32, rec.made.choices(p.site) as u32);
    let (routes, made) = (Slice::whole(rec.buffers.routes), rec.choices());
    let words = [
        tokens as u32,
        p.experts as u32,
        p.top_k as u32,
        rec.layout.charges.get(p.site).copied().unwrap_or(0) as u32,
        (rec.layout.forced + p.site * tokens) as u32,
        choices,
        marks,
        flag(p.capacity.is_some(), 1),
    ];
    let logits = rec.value(*logits)?;
    let bindings = [&rec.call(), &logits, &routes, &made];
    rec.dispatch(Shader::Route, &words, &bindings, tokens.div_ceil(LANES))?;
    if let Some(capacity) = p.capacity {
        let room = capacity.room(tokens, p.experts, p.top_k);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let words = [tokens as u32, p.experts as u32, p.top_k as u32, room, marks];
        let groups = if tokens == 0 { 0 } else { p.experts.div_ceil(LANES) };
        rec.dispatch(Shader::Capacity, &words, &[&routes, &made], groups)?;
    }
    let experts = p.experts.max(1);
    let (hidden, parts) = (Slice::whole(rec.buffers.hidden), Slice::whole(rec.buffers.parts));
    sort(rec, (&routes, 0, 2), (pairs, experts), true)?;
    let up = Work {
        weight: *w1,
        tokens: pairs,
        share: p.top_k,
        x: &rec.value(*x)?,
        norm: None,
        bias: None,
        residual: None,
        factors: None,
        activation: p.activation,
        gated: p.gated,
        last: false,
        precise: false,
        out: &hidden,
        part: WorkPart::Routed { experts },
    };
    dispatch(rec, up)?;
    let down = Work {
        weight: *w2,
        tokens: pairs,
        share: 1,
        x: &hidden,
        norm: None,
        bias: None,
        residual: None,
        factors: None,
        activation: Activation::Identity,
        gated: false,
        last: false,
        precise: false,
        out: &parts,
        part: WorkPart::Routed { experts },
    };
    dispatch(rec, down)?;
    let words = [
        tokens as u32,
        out.cols as u32,
        p.top_k as u32,
        flag(p.weights == ExpertWeights::Probabilities, 1),
        flag(residual.is_some(), 1),
    ];
    let groups = (tokens * out.cols).div_ceil(LANES);
    let (residual, out) = (rec.value_or_none(*residual)?, rec.value(*out)?);
    rec.dispatch(Shader::Combine, &words, &[&routes, &parts, &residual, &out], groups)
}

pub(super) fn mix(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Mix { params, logits, parts, residual, out } = instruction else {
        return Ok(());
    };
    let count = rec.sizes.len(*out);
    let (logits, target) = (rec.value(*logits)?, rec.value(*out)?);
    let added = rec.value_or_none(*residual)?;
    for (i, part) in parts.iter().enumerate() {
        let words = [
            count as u32,
            out.cols as u32,
            parts.len() as u32,
            i as u32,
            flag(params.rule == MixRule::Softmax, 1),
            flag(residual.is_some(), 1),
        ];
        let x = rec.value(*part)?;
        rec.dispatch(Shader::Mix, &words, &[&logits, &x, &added, &target], count.div_ceil(LANES))?;
    }
    Ok(())
}
