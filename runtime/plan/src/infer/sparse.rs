//! The shape rules of activation sparsity.

use super::adaptive::{MAX_CHOICES, choices};
use super::{call_rows, infer_linear, vector};
use crate::Fact;
use crate::ops::*;

pub(super) fn level(p: &Level) -> Result<Fact, String> {
    let Some((last, others)) = p.gains.split_last() else {
        return Err("it has no gains".into());
    };
    if p.gains.len() > MAX_CHOICES {
        return Err(format!("{} gains are out of range", p.gains.len()));
    }
    if p.gains.iter().any(|g| !g.is_finite()) || others.iter().any(|g| g >= last) {
        return Err("its gains are not numbers of which the last is the largest".into());
    }
    Ok(choices())
}

pub(super) fn sparse_linear(p: &SparseLinear, inputs: &[Fact]) -> Result<Fact, String> {
    let (linear, own) = inputs.split_at(inputs.len().saturating_sub(2));
    if p.linear.factors {
        return Err("a linear that leaves out channels has no factors".into());
    }
    let out = infer_linear(&p.linear, linear)?;
    let (_, k) = call_rows(&inputs[0])?;
    let [choice, channels] = own else { return Err("its choice is missing".into()) };
    if *choice != choices() {
        return Err(format!("choice {choice} is not {}", choices()));
    }
    vector(channels, k, "channels")?;
    if p.thresholds.last() != Some(&0.0) || p.thresholds.len() > MAX_CHOICES {
        return Err("its thresholds do not end with 0".into());
    }
    if p.thresholds.iter().any(|t| !t.is_finite()) || !p.thresholds.is_sorted_by(|a, b| a >= b) {
        return Err("its thresholds are not numbers that never rise".into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim, Symbol};

    fn tokens(cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::symbol(Symbol::TOKENS), Dim::Const(cols)])
    }

    fn known(rows: u64, cols: u64) -> Fact {
        Fact::new(DType::F32, vec![Dim::Const(rows), Dim::Const(cols)])
    }

    fn op(thresholds: &[f32]) -> Op {
        let activation = Activation::Identity;
        let linear = Linear {
            bias: false,
            activation,
            gated: false,
            residual: true,
            factors: false,
            precise: false,
        };
        Op::SparseLinear(SparseLinear { linear, thresholds: thresholds.to_vec() })
    }

    #[test]
    fn a_level_has_gains_that_end_with_the_largest() {
        let level = |gains: &[f64]| Op::Level(Level { site: 0, gains: gains.to_vec() });
        assert_eq!(level(&[-1.0, 0.0]).infer(&[]).unwrap(), [choices()]);
        for bad in [&[][..], &[0.0, 0.0], &[1.0, 0.0], &[f64::NAN, 0.0], &[0.0, f64::INFINITY]] {
            assert!(level(bad).infer(&[]).is_err(), "{bad:?}");
        }
        assert!(level(&[-1.0, 0.0]).infer(&[tokens(1)]).is_err());
        let p = Level { site: 0, gains: vec![-3.0, -1.0, 0.0] };
        let at = |price| p.choose(&[0.5, 0.7, 1.0], 2.0, price);
        assert_eq!([0.0, 1.0, 2.0, 4.0, 6.0].map(at), [2, 2, 1, 1, 0]);
    }

    #[test]
    fn a_sparse_linear_follows_a_choice_and_has_falling_thresholds() {
        let good = [tokens(8), known(4, 8), tokens(4), choices(), known(1, 8)];
        assert_eq!(op(&[0.5, 0.5, 0.0]).infer(&good).unwrap(), [tokens(4)]);
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for bad in [&[][..], &[0.5], &[0.1, 0.2, 0.0], &[nan, 0.0], &[inf, 0.0], &[0.0, -1.0]] {
            assert!(op(bad).infer(&good).is_err(), "{bad:?}");
        }
        let outputs = Fact::new(DType::F32, vec![Dim::symbol(Symbol::OUTPUTS), Dim::Const(8)]);
        for (at, fact) in [(0, outputs), (1, known(4, 9)), (3, tokens(1)), (4, known(1, 7))] {
            let mut inputs = good.clone();
            inputs[at] = fact;
            assert!(op(&[0.5, 0.0]).infer(&inputs).is_err(), "input {at}");
        }
        assert!(op(&[0.5, 0.0]).infer(&good[..4]).is_err());
        assert!(op(&[0.5, 0.0]).infer(&[]).is_err());
    }

    #[test]
    fn parameters_round_trip() {
        let op = op(&[0.1, 0.0]);
        assert_eq!(Op::from_parts(op.name(), op.params()).unwrap(), op);
    }
}
