//! What each op gives for what it takes: the shape rules, used by the compiler to type a graph and
//! by the reader to check a plan.

mod adaptive;
mod attend;
mod images;
mod moe;
mod patches;
mod sparse;
mod tensors;

pub use tensors::broadcast;

use crate::ops::*;
use crate::{DType, Dim, Fact, GATE_GROUP, Symbol};

/// Largest head size and head count that a plan may ask for.
const MAX_HEADS: usize = 4096;

/// What an op wants of one input beyond its fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRole {
    /// A value of the call.
    Activation,
    /// An f32 value that the caller gives.
    Given,
    /// Any value of the call, given or computed.
    Value,
    /// A weight in a pack format made for matrix products (panels or quads) of which a part may be
    /// used: not one in wide blocks.
    Matrix,
    /// The same, or one in wide blocks.
    WholeMatrix,
    /// The first, or one by channel.
    AnyMatrix,
    /// A weight in any pack format, read row by row.
    Table,
    /// A weight in f32, one row.
    Vector,
    /// A weight in f32, row after row.
    Rows,
    /// A value, or a weight in f32, row after row.
    Tensor,
}

impl Op {
    /// The roles of the inputs, in order.
    pub fn input_roles(&self) -> Vec<InputRole> {
        use InputRole::*;
        let optional = |present: bool, role| std::iter::repeat_n(role, usize::from(present));
        match self {
            Op::Embedding(_) => vec![Activation, Table],
            Op::Linear(p) => [Activation, WholeMatrix]
                .into_iter()
                .chain(optional(p.bias, Vector))
                .chain(optional(p.residual, Activation))
                .chain(optional(p.factors, Vector))
                .collect(),
            Op::Norm(p) => {
                [Activation, Vector].into_iter().chain(optional(p.bias, Vector)).collect()
            }
            Op::Add(_) | Op::Gate(_) => vec![Activation, Activation],
            Op::Attention(p) => std::iter::repeat_n(Activation, if p.fused { 1 } else { 3 })
                .chain(optional(p.qk_norm_eps.is_some(), Vector))
                .chain(optional(p.qk_norm_eps.is_some(), Vector))
                .chain(optional(p.rope.is_some(), Vector))
                .collect(),
            Op::Activate(_)
            | Op::SelectRows(_)
            | Op::Pool(_)
            | Op::SoftCap(_)
            | Op::MaxPool2d(_) => {
                vec![Activation]
            }
            Op::Choose(_) => vec![Activation, Rows, Vector],
            Op::Patches(_) | Op::Pixels(_) => vec![Given],
            Op::Conv2d(p) => [Activation, Matrix]
                .into_iter()
                .chain(optional(p.bias, Vector))
                .chain(optional(p.residual, Activation))
                .collect(),
            Op::DepthwiseConv2d(p) => {
                [Activation, Rows].into_iter().chain(optional(p.bias, Vector)).collect()
            }
            Op::Onnx(p) => vec![Value; p.inputs.len().min(Onnx::MAX_VALUES)],
            Op::Level(_) | Op::Sizes(_) | Op::Range(_) => Vec::new(),
            Op::Map(p) => vec![Tensor; p.inputs.min(Map::MAX_INPUTS)],
            Op::Concat(p) => vec![Tensor; p.inputs.min(tensors::MAX_PARTS)],
            Op::MatMul(_) | Op::Gather(_) | Op::GatherElements(_) => vec![Tensor, Tensor],
            Op::Attend(p) => vec![Tensor; 3 + usize::from(p.mask)],
            Op::Reduce(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Expand(_)
            | Op::Slice(_)
            | Op::Pad(_)
            | Op::Softmax(_)
            | Op::AveragePool2d(_)
            | Op::Resize(_) => vec![Tensor],
            Op::GroupNorm(p) => {
                [Activation, Vector].into_iter().chain(optional(p.bias, Vector)).collect()
            }
            Op::ConvTranspose2d(p) => {
                [Activation, Matrix].into_iter().chain(optional(p.bias, Vector)).collect()
            }
            Op::Lstm(p) => {
                let more = usize::from(p.bias) + 2 * usize::from(p.state);
                vec![Tensor; 3 + more]
            }
            Op::SparseLinear(p) => [Activation, AnyMatrix]
                .into_iter()
                .chain(optional(p.linear.bias, Vector))
                .chain(optional(p.linear.residual, Activation))
                .chain([Activation, Vector])
                .collect(),
            Op::AdaptiveMlp(p) => [Activation, Activation, Matrix]
                .into_iter()
                .chain(optional(p.bias, Vector))
                .chain([Matrix])
                .chain(optional(p.out_bias, Table))
                .chain(optional(p.residual, Activation))
                .collect(),
            Op::MoeMlp(p) => [Activation, Activation, Matrix, Matrix]
                .into_iter()
                .chain(optional(p.residual, Activation))
                .collect(),
            Op::Mix(p) => {
                let values = p.parts.min(moe::MAX_PARTS) + 1 + usize::from(p.residual);
                vec![Activation; values]
            }
        }
    }

    /// The facts of the outputs.
    ///
    /// # Errors
    /// Inputs of the wrong number, type or shape, or parameters out of range, as a message.
    pub fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
        let wanted = self.input_roles().len();
        if inputs.len() != wanted {
            return Err(format!("takes {wanted} inputs, has {}", inputs.len()));
        }
        if let Op::Onnx(p) = self {
            return infer_onnx(p, inputs);
        }
        let fact = match self {
            Op::Embedding(p) => infer_embedding(p, inputs)?,
            Op::Linear(p) => infer_linear(p, inputs)?,
            Op::Norm(p) => infer_norm(p, inputs)?,
            Op::Add(_) | Op::Gate(_) => {
                floats(&inputs[0])?;
                same(&inputs[0], &inputs[1])?;
                inputs[0].clone()
            }
            Op::Activate(_) => {
                floats(&inputs[0])?;
                inputs[0].clone()
            }
            Op::SoftCap(p) => {
                floats(&inputs[0])?;
                positive("cap", p.cap)?;
                inputs[0].clone()
            }
            Op::Attention(p) => infer_attention(p, inputs)?,
            Op::SelectRows(_) => {
                let (_, cols) = call_rows(&inputs[0])?;
                rows_of(Symbol::OUTPUTS, cols)
            }
            Op::Pool(_) => {
                let cols = match images::rows_per_image(&inputs[0]) {
                    Some(_) => matrix(&inputs[0])?.1,
                    None => call_rows(&inputs[0])?.1,
                };
                rows_of(Symbol::SEQUENCES, cols)
            }
            Op::Choose(p) => adaptive::choose(p, inputs)?,
            Op::AdaptiveMlp(p) => adaptive::adaptive_mlp(p, inputs)?,
            Op::MoeMlp(p) => moe::moe_mlp(p, inputs)?,
            Op::Mix(p) => moe::mix(p, inputs)?,
            Op::Patches(p) => patches::patches(p, inputs)?,
            Op::Pixels(p) => images::pixels(p, inputs)?,
            Op::Conv2d(p) => images::conv2d(p, inputs)?,
            Op::DepthwiseConv2d(p) => images::depthwise_conv2d(p, inputs)?,
            Op::MaxPool2d(p) => images::max_pool2d(p, inputs)?,
            Op::Level(p) => sparse::level(p)?,
            Op::SparseLinear(p) => sparse::sparse_linear(p, inputs)?,
            _ => tensors::infer(self, inputs)?,
        };
        Ok(vec![fact])
    }
}

fn rows_of(symbol: &str, cols: usize) -> Fact {
    Fact::new(DType::F32, vec![Dim::symbol(symbol), Dim::from(cols)])
}

/// `[rows, cols]` of an f32 matrix with known columns.
fn matrix(fact: &Fact) -> Result<(&Dim, usize), String> {
    match (fact.dtype, fact.shape.as_slice()) {
        (DType::F32, [rows, cols]) => match known_size(cols) {
            Some(cols) => Ok((rows, cols)),
            _ => Err(format!("columns of {fact} are not a known size >= 1")),
        },
        _ => Err(format!("{fact} is not an f32 matrix")),
    }
}

/// The leading sizes and the known columns of f32 values in rows, whatever their rank.
fn rows(fact: &Fact) -> Result<(&[Dim], usize), String> {
    match fact.shape.split_last() {
        Some((cols, rows)) if fact.dtype == DType::F32 && rows.len() < MAX_RANK => {
            let cols = known_size(cols);
            let cols =
                cols.ok_or_else(|| format!("columns of {fact} are not a known size >= 1"))?;
            Ok((rows, cols))
        }
        _ => Err(format!("{fact} is not f32 values in rows")),
    }
}

/// f32 values of any sizes.
fn floats(fact: &Fact) -> Result<(), String> {
    match fact.dtype {
        DType::F32 if fact.shape.len() <= MAX_RANK => Ok(()),
        _ => Err(format!("{fact} is not f32 values of at most {MAX_RANK} axes")),
    }
}

/// A size that is known and in range.
fn known_size(dim: &Dim) -> Option<usize> {
    dim.as_const().filter(|n| (1..=u64::from(u32::MAX >> 1)).contains(n)).map(|n| n as usize)
}

/// `[tokens, cols]`: a matrix with one row per token of the call.
fn call_rows(fact: &Fact) -> Result<(&Dim, usize), String> {
    let (rows, cols) = matrix(fact)?;
    if *rows != Dim::symbol(Symbol::TOKENS) {
        return Err(format!("rows of {fact} are not the call's tokens"));
    }
    Ok((rows, cols))
}

/// `[rows, cols]`, both known: a weight.
fn weight(fact: &Fact) -> Result<(usize, usize), String> {
    let (rows, cols) = matrix(fact)?;
    let rows = rows.as_const().ok_or_else(|| format!("weight {fact} has an unknown size"))?;
    Ok((rows as usize, cols))
}

fn vector(fact: &Fact, len: usize, what: &str) -> Result<(), String> {
    match weight(fact)? {
        (1, n) if n == len => Ok(()),
        _ => Err(format!("{what} is {fact}, not f32[1, {len}]")),
    }
}

fn same(a: &Fact, b: &Fact) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{a} and {b} differ")) }
}

fn positive(what: &str, v: f32) -> Result<(), String> {
    if v.is_finite() && v > 0.0 {
        Ok(())
    } else {
        Err(format!("{what} {v} is not a positive number"))
    }
}

fn infer_embedding(p: &Embedding, inputs: &[Fact]) -> Result<Fact, String> {
    let ids = &inputs[0];
    if ids.dtype != DType::I32 || ids.shape.len() >= MAX_RANK {
        return Err(format!("ids {ids} are not i32"));
    }
    if !p.scale.is_finite() {
        return Err(format!("scale {} is not finite", p.scale));
    }
    let (_, cols) = weight(&inputs[1])?;
    Ok(in_rows(&ids.shape, cols))
}

/// f32 values in rows.
fn in_rows(rows: &[Dim], cols: usize) -> Fact {
    let shape = rows.iter().cloned().chain([Dim::from(cols)]);
    Fact::new(DType::F32, shape.collect())
}

fn infer_linear(p: &Linear, inputs: &[Fact]) -> Result<Fact, String> {
    let (rows, k) = rows(&inputs[0])?;
    let (n, wk) = weight(&inputs[1])?;
    if k != wk {
        return Err(format!("input has {k} columns, the weight takes {wk}"));
    }
    let cols = if !p.gated {
        n
    } else if n.is_multiple_of(2 * GATE_GROUP) {
        n / 2
    } else {
        return Err(format!("{n} gated rows are not a multiple of {}", 2 * GATE_GROUP));
    };
    let out = in_rows(rows, cols);
    epilogue(&inputs[2..], p.bias, p.residual, n, &out)?;
    if p.factors
        && let Some(factors) = inputs.last()
    {
        vector(factors, k, "factors")?;
    }
    Ok(out)
}

/// The operands after a weight of `n` rows: its bias and a residual, where there are such.
fn epilogue(
    inputs: &[Fact],
    bias: bool,
    residual: bool,
    n: usize,
    out: &Fact,
) -> Result<(), String> {
    let mut rest = inputs.iter();
    if bias && let Some(bias) = rest.next() {
        vector(bias, n, "bias")?;
    }
    if residual && let Some(residual) = rest.next() {
        same(residual, out)?;
    }
    Ok(())
}

fn infer_norm(p: &Norm, inputs: &[Fact]) -> Result<Fact, String> {
    let (_, cols) = rows(&inputs[0])?;
    valid_eps(p.eps)?;
    for v in &inputs[1..] {
        vector(v, cols, "norm weight")?;
    }
    Ok(inputs[0].clone())
}

fn valid_eps(eps: f32) -> Result<(), String> {
    if eps.is_finite() && eps >= 0.0 {
        Ok(())
    } else {
        Err(format!("eps {eps} is not a number >= 0"))
    }
}

fn infer_attention(p: &Attention, inputs: &[Fact]) -> Result<Fact, String> {
    let in_range = |n: usize| (1..=MAX_HEADS).contains(&n);
    if !in_range(p.heads) || !in_range(p.kv_heads) || !in_range(p.head_dim) {
        return Err("heads, kv_heads and head_dim must be in 1..=4096".into());
    }
    if !p.heads.is_multiple_of(p.kv_heads) {
        return Err(format!("{} heads are not a multiple of {} kv_heads", p.heads, p.kv_heads));
    }
    positive("scale", p.scale)?;
    p.softcap.map_or(Ok(()), |c| positive("softcap", c))?;
    p.qk_norm_eps.map_or(Ok(()), |e| positive("qk_norm_eps", e))?;
    if p.window == Some(0) || (p.window.is_some() && !p.causal) {
        return Err("a window is at least 1 and wants causal attention".into());
    }
    if p.state.is_some() && !p.causal {
        return Err("attention over a state must be causal".into());
    }
    let width = |heads: usize| heads * p.head_dim;
    let mut rest = inputs.iter();
    let widths = if p.fused {
        vec![width(p.heads) + 2 * width(p.kv_heads)]
    } else {
        vec![width(p.heads), width(p.kv_heads), width(p.kv_heads)]
    };
    for (want, fact) in widths.into_iter().zip(&mut rest) {
        let (_, cols) = call_rows(fact)?;
        if cols != want {
            return Err(format!("attention input {fact} should have {want} columns"));
        }
    }
    if p.qk_norm_eps.is_some() {
        for fact in rest.by_ref().take(2) {
            vector(fact, p.head_dim, "query or key norm")?;
        }
    }
    if let (Some(rope), Some(fact)) = (&p.rope, rest.next()) {
        let r = rope.rotary_dim;
        if r == 0 || r > p.head_dim || !r.is_multiple_of(2) || !rope.factor.is_finite() {
            return Err(format!("rotary_dim {r} is not even and within the head"));
        }
        vector(fact, r / 2, "rope frequencies")?;
    }
    Ok(rows_of(Symbol::TOKENS, width(p.heads)))
}

fn infer_onnx(p: &Onnx, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
    let count = p.inputs.len().max(p.outputs.len());
    if count > Onnx::MAX_VALUES || p.outputs.is_empty() {
        return Err(format!(
            "{count} inputs or outputs are none, or more than {}",
            Onnx::MAX_VALUES
        ));
    }
    for (wanted, given) in p.inputs.iter().zip(inputs) {
        same(wanted, given)?;
    }
    match p.outputs.iter().find(|fact| fact.shape.len() > MAX_RANK) {
        Some(fact) => Err(format!("{fact} has more than {MAX_RANK} axes")),
        None => Ok(p.outputs.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32(shape: &[Dim]) -> Fact {
        Fact::new(DType::F32, shape.to_vec())
    }

    fn tokens(cols: u64) -> Fact {
        f32(&[Dim::symbol("tokens"), Dim::Const(cols)])
    }

    fn known(rows: u64, cols: u64) -> Fact {
        f32(&[Dim::Const(rows), Dim::Const(cols)])
    }

    fn linear(bias: bool, gated: bool, residual: bool) -> Op {
        Op::Linear(Linear {
            bias,
            activation: Activation::Identity,
            gated,
            residual,
            factors: false,
            precise: false,
        })
    }

    #[test]
    fn linear_gives_its_rows_and_halves_when_gated() {
        let out = linear(false, false, false).infer(&[tokens(8), known(48, 8)]);
        assert_eq!(out.unwrap(), [tokens(48)]);
        let out = linear(false, true, false).infer(&[tokens(8), known(48, 8)]);
        assert_eq!(out.unwrap(), [tokens(24)]);
        assert!(linear(false, true, false).infer(&[tokens(8), known(24, 8)]).is_err());
        assert!(linear(false, false, false).infer(&[tokens(9), known(48, 8)]).is_err());
        assert!(linear(true, false, false).infer(&[tokens(8), known(48, 8)]).is_err());
        let bad_bias = [tokens(8), known(48, 8), known(1, 47)];
        assert!(linear(true, false, false).infer(&bad_bias).is_err());
    }

    #[test]
    fn factors_of_a_linear_are_one_for_each_channel() {
        let Op::Linear(plain) = linear(true, false, false) else { unreachable!() };
        let op = Op::Linear(Linear { factors: true, ..plain });
        let inputs = |factors| [tokens(8), known(48, 8), known(1, 48), known(1, factors)];
        assert_eq!(op.infer(&inputs(8)).unwrap(), [tokens(48)]);
        assert!(op.infer(&inputs(48)).is_err());
        assert!(op.infer(&inputs(8)[..3]).is_err());
    }

    #[test]
    fn attention_checks_heads_widths_and_frequencies() {
        let p = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            scale: 0.35,
            softcap: None,
            causal: true,
            window: None,
            fused: true,
            qk_norm_eps: None,
            rope: Some(Rope { style: RopeStyle::Half, rotary_dim: 8, factor: 1.0 }),
            state: Some(0),
        };
        let good = [tokens(64), known(1, 4)];
        assert_eq!(Op::Attention(p.clone()).infer(&good).unwrap(), [tokens(32)]);
        assert!(Op::Attention(p.clone()).infer(&[tokens(63), known(1, 4)]).is_err());
        assert!(Op::Attention(p.clone()).infer(&[tokens(64), known(1, 5)]).is_err());
        for broken in [
            Attention { kv_heads: 3, ..p.clone() },
            Attention { head_dim: usize::MAX, ..p.clone() },
            Attention { scale: f32::NAN, ..p.clone() },
            Attention { window: Some(0), ..p.clone() },
            Attention { causal: false, ..p },
        ] {
            assert!(Op::Attention(broken).infer(&good).is_err());
        }
    }
}
