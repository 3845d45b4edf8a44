//! The shape rules of adaptive ops.

use super::{call_rows, rows_of, same, vector, weight};
use crate::ops::*;
use crate::{DType, Dim, Fact, QUANT_BLOCK, Symbol};

/// Most choices of a site and learners of an MLP.
pub(super) const MAX_CHOICES: usize = 4096;
/// Largest first choice: reports count tokens per choice from 0 on.
const MAX_FIRST: usize = 64;

/// One choice per token of the call.
pub(super) fn choices() -> Fact {
    Fact::new(DType::I32, vec![Dim::symbol(Symbol::TOKENS)])
}

pub(super) fn choose(p: &Choose, inputs: &[Fact]) -> Result<Fact, String> {
    let (_, k) = call_rows(&inputs[0])?;
    let (count, gate_k) = weight(&inputs[1])?;
    if k != gate_k {
        return Err(format!("input has {k} columns, the gate takes {gate_k}"));
    }
    if count == 0 || count > MAX_CHOICES || p.first > MAX_FIRST {
        return Err(format!("{count} choices from {} on are out of range", p.first));
    }
    vector(&inputs[2], count, "gate bias")?;
    Ok(choices())
}

pub(super) fn adaptive_mlp(p: &AdaptiveMlp, inputs: &[Fact]) -> Result<Fact, String> {
    let (_, k) = call_rows(&inputs[0])?;
    if inputs[1] != choices() {
        return Err(format!("choice {} is not {}", inputs[1], choices()));
    }
    let (h1, w1_k) = weight(&inputs[2])?;
    if k != w1_k {
        return Err(format!("input has {k} columns, w1 takes {w1_k}"));
    }
    let mut rest = inputs[3..].iter();
    if p.bias
        && let Some(bias) = rest.next()
    {
        vector(bias, h1, "b1")?;
    }
    let (m, hidden) = rest.next().map_or_else(|| Err("w2 is missing".into()), weight)?;
    if h1 != if p.gated { 2 * hidden } else { hidden } {
        let gated = if p.gated { "gated " } else { "" };
        return Err(format!("w1 has {h1} {gated}rows, w2 takes {hidden} hidden units"));
    }
    if !(1..=MAX_CHOICES).contains(&p.learners) {
        return Err(format!("{} learners are out of range", p.learners));
    }
    if !hidden.is_multiple_of(p.learners * QUANT_BLOCK) {
        return Err(format!(
            "{hidden} hidden units are not {} learners of a multiple of {QUANT_BLOCK}",
            p.learners
        ));
    }
    if p.out_bias
        && let Some(fact) = rest.next()
        && weight(fact)? != (p.learners + 1, m)
    {
        return Err(format!("out_bias is {fact}, not f32[{}, {m}]", p.learners + 1));
    }
    let out = rows_of(Symbol::TOKENS, m);
    if p.residual
        && let Some(residual) = rest.next()
    {
        same(residual, &out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::symbol("tokens"), Dim::Const(cols)])
    }

    fn known(rows: u64, cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::Const(rows), Dim::Const(cols)])
    }

    fn acm(gated: bool) -> AdaptiveMlp {
        AdaptiveMlp {
            learners: 4,
            activation: Activation::Gelu,
            gated,
            bias: true,
            out_bias: true,
            residual: true,
        }
    }

    #[test]
    fn a_choice_is_an_integer_per_token() {
        let op = |first| Op::Choose(Choose { site: 0, transform: GateTransform::NegExp2, first });
        let good = [tokens(8), known(5, 8), known(1, 5)];
        assert_eq!(op(0).infer(&good).unwrap(), [choices()]);
        assert!(op(1 << 20).infer(&good).is_err());
        assert!(op(0).infer(&[tokens(9), known(5, 8), known(1, 5)]).is_err());
        assert!(op(0).infer(&[tokens(8), known(5, 8), known(1, 4)]).is_err());
        assert!(op(0).infer(&[tokens(8), known(5000, 8), known(1, 5000)]).is_err());
        let outputs = Fact::new(DType::F32, vec![Dim::symbol("outputs"), Dim::Const(8)]);
        assert!(op(0).infer(&[outputs, known(5, 8), known(1, 5)]).is_err());
    }

    #[test]
    fn adaptive_mlps_are_whole_learners_of_whole_blocks() {
        let inputs = |h1: u64, h: u64| {
            let (x, w1, b1) = (tokens(8), known(h1, 8), known(1, h1));
            [x, choices(), w1, b1, known(16, h), known(5, 16), tokens(16)]
        };
        let infer = |p: AdaptiveMlp, inputs: &[Fact]| Op::AdaptiveMlp(p).infer(inputs);
        assert_eq!(infer(acm(false), &inputs(128, 128)).unwrap(), [tokens(16)]);
        assert_eq!(infer(acm(true), &inputs(256, 128)).unwrap(), [tokens(16)]);
        assert!(infer(acm(true), &inputs(128, 128)).is_err());
        assert!(infer(acm(false), &inputs(256, 128)).is_err());
        for h in [64, 120, 96] {
            assert!(infer(acm(false), &inputs(h, h)).unwrap_err().contains("multiple of 32"));
        }
        for learners in [0, 3, usize::MAX] {
            assert!(infer(AdaptiveMlp { learners, ..acm(false) }, &inputs(128, 128)).is_err());
        }
        for (at, fact) in [(1, tokens(1)), (3, known(1, 127)), (5, known(4, 16)), (6, tokens(8))] {
            let mut bad = inputs(128, 128);
            bad[at] = fact;
            assert!(infer(acm(false), &bad).is_err(), "input {at}");
        }
    }
}
