//! The shape rules of mixtures of experts.

use super::{call_rows, rows_of, same, weight};
use crate::ops::*;
use crate::{Fact, PANEL_ROWS, Symbol};

/// Most experts of a mixture.
const MAX_EXPERTS: usize = 4096;
/// Most parts of a weighted sum.
pub(super) const MAX_PARTS: usize = 16;

pub(super) fn moe_mlp(p: &MoeMlp, inputs: &[Fact]) -> Result<Fact, String> {
    let MoeMlp { experts, top_k, .. } = *p;
    if !(1..=MAX_EXPERTS).contains(&experts) || !(1..=experts).contains(&top_k) {
        return Err(format!("{top_k} of {experts} experts are out of range"));
    }
    if let Some(c) = p.capacity
        && !(c.factor.is_finite() && c.factor > 0.0 && c.factor <= MAX_EXPERTS as f64)
    {
        return Err(format!("a capacity factor of {} is out of range", c.factor));
    }
    let (_, k) = call_rows(&inputs[0])?;
    let (_, logits) = call_rows(&inputs[1])?;
    if logits != experts {
        return Err(format!("{logits} logits are not those of {experts} experts"));
    }
    let (w1_rows, w1_k) = weight(&inputs[2])?;
    let (w2_rows, hidden) = weight(&inputs[3])?;
    if k != w1_k {
        return Err(format!("input has {k} columns, w1 takes {w1_k}"));
    }
    let per_expert = |rows: usize, what: &str| match rows / experts {
        n if n > 0 && rows.is_multiple_of(experts) && n.is_multiple_of(PANEL_ROWS) => Ok(n),
        _ => Err(format!(
            "{rows} rows of {what} are not {experts} experts of a multiple of {PANEL_ROWS}"
        )),
    };
    let (h1, m) = (per_expert(w1_rows, "w1")?, per_expert(w2_rows, "w2")?);
    if h1 != if p.gated { 2 * hidden } else { hidden } {
        let gated = if p.gated { "gated " } else { "" };
        return Err(format!("an expert has {h1} {gated}rows, w2 takes {hidden} hidden units"));
    }
    let out = rows_of(Symbol::TOKENS, m);
    inputs.get(4).map_or(Ok(()), |residual| same(residual, &out))?;
    Ok(out)
}

pub(super) fn mix(p: &Mix, inputs: &[Fact]) -> Result<Fact, String> {
    if !(1..=MAX_PARTS).contains(&p.parts) {
        return Err(format!("{} parts are out of range", p.parts));
    }
    let (_, logits) = call_rows(&inputs[0])?;
    if logits != p.parts {
        return Err(format!("{logits} logits do not weigh {} parts", p.parts));
    }
    call_rows(&inputs[1])?;
    inputs[2..].iter().try_for_each(|value| same(value, &inputs[1]))?;
    Ok(inputs[1].clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim};

    fn tokens(cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::symbol("tokens"), Dim::Const(cols)])
    }

    fn known(rows: u64, cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::Const(rows), Dim::Const(cols)])
    }

    fn moe() -> MoeMlp {
        MoeMlp {
            site: 0,
            experts: 4,
            top_k: 2,
            activation: Activation::Silu,
            gated: true,
            weights: ExpertWeights::Renormalised,
            capacity: None,
            residual: true,
        }
    }

    /// 4 experts of 24 hidden units.
    fn inputs() -> [Fact; 5] {
        [tokens(8), tokens(4), known(4 * 48, 8), known(4 * 16, 24), tokens(16)]
    }

    #[test]
    fn experts_are_whole_tiles_of_both_weights() {
        let infer = |p: MoeMlp, inputs: &[Fact]| Op::MoeMlp(p).infer(inputs);
        assert_eq!(infer(moe(), &inputs()).unwrap(), [tokens(16)]);
        let bad: [(usize, Fact); 6] = [
            (0, tokens(9)),
            (1, tokens(5)),
            (2, known(4 * 32, 8)),
            (2, known(190, 8)),
            (3, known(4 * 8, 24)),
            (4, tokens(15)),
        ];
        for (at, fact) in bad {
            let mut inputs = inputs();
            inputs[at] = fact;
            assert!(infer(moe(), &inputs).is_err(), "{inputs:?}");
        }
        for p in [
            MoeMlp { experts: 0, ..moe() },
            MoeMlp { experts: usize::MAX, ..moe() },
            MoeMlp { top_k: 0, ..moe() },
            MoeMlp { top_k: 5, ..moe() },
            MoeMlp { experts: 3, ..moe() },
            MoeMlp { gated: false, ..moe() },
            MoeMlp { residual: false, ..moe() },
            MoeMlp { capacity: Some(Capacity { factor: f64::NAN, min: 0 }), ..moe() },
            MoeMlp { capacity: Some(Capacity { factor: 0.0, min: 0 }), ..moe() },
        ] {
            assert!(infer(p.clone(), &inputs()).is_err(), "{p:?}");
        }
    }

    #[test]
    fn a_mix_has_a_logit_for_each_part() {
        let mix = |parts, inputs: &[Fact]| {
            let rule = MixRule::Softmax;
            Op::Mix(Mix { parts, rule, residual: true }).infer(inputs)
        };
        let good = [tokens(2), tokens(8), tokens(8), tokens(8)];
        assert_eq!(mix(2, &good).unwrap(), [tokens(8)]);
        assert!(mix(1, &good[..3]).is_err());
        assert!(mix(2, &[tokens(2), tokens(8), tokens(8), tokens(9)]).is_err());
        assert!(mix(0, &good[..2]).is_err());
        assert!(mix(usize::MAX, &good).is_err());
    }
}
