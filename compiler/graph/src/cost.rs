//! What a node costs, in multiply-adds, as an expression over the call's sizes.

use limbeck_plan::{Dim, Fact, Op, Symbol};

/// Multiply-adds of `op` for inputs and output of these facts. Elementwise work counts one per
/// element; lookups and row selection are free.
pub fn macs(op: &Op, inputs: &[&Fact], output: &Fact) -> Dim {
    let elements = |fact: &Fact| {
        let shape = fact.shape.iter().cloned();
        shape.reduce(Dim::times).unwrap_or(Dim::Const(0))
    };
    match op {
        Op::Embedding(_) | Op::SelectRows(_) => Dim::Const(0),
        Op::Linear(_) => match inputs {
            [x, weight, ..] => x.shape[0].clone().times(elements(weight)),
            _ => Dim::Const(0),
        },
        Op::Attention(p) => Dim::symbol(Symbol::ATTENDED).times(2 * p.heads * p.head_dim),
        Op::Norm(_) | Op::Add(_) | Op::Activate(_) | Op::Gate(_) | Op::SoftCap(_) => {
            elements(output)
        }
        Op::Pool(_) => inputs.first().map_or(Dim::Const(0), |x| elements(x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck_plan::{Activation, DType, Linear};

    #[test]
    fn a_linear_costs_rows_by_outputs_by_inputs() {
        let fact = |rows: Dim, cols: u64| Fact::new(DType::F32, vec![rows, Dim::Const(cols)]);
        let x = fact(Dim::symbol("tokens"), 3);
        let w = fact(Dim::Const(5), 3);
        let y = fact(Dim::symbol("tokens"), 5);
        let op = Op::Linear(Linear {
            bias: false,
            activation: Activation::Identity,
            gated: false,
            residual: false,
            precise: false,
        });
        let cost = macs(&op, &[&x, &w], &y);
        assert_eq!(cost.eval(&|_| Some(7)), Some(7 * 15));
    }
}
