//! What a node costs, in multiply-adds, as an expression over the call's sizes.

use limbeck_plan::{DepthwiseConv2d, Dim, Fact, MapStep, MaxPool2d, Op, Symbol};

/// Multiply-adds of `op` for inputs and output of these facts. Elementwise work counts one per
/// element; lookups and row selection are free.
pub fn macs(op: &Op, inputs: &[&Fact], output: &Fact) -> Dim {
    let product = |sizes: &[Dim]| sizes.iter().cloned().fold(Dim::Const(1), Dim::times);
    let elements = |fact: &Fact| product(&fact.shape);
    let leading = |fact: &Fact| product(fact.shape.split_last().map_or(&[], |(_, rest)| rest));
    match op {
        Op::Embedding(_) | Op::SelectRows(_) | Op::Patches(_) | Op::Pixels(_) | Op::Level(_) => {
            Dim::Const(0)
        }
        // They move elements.
        Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Expand(_)
        | Op::Slice(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::Gather(_)
        | Op::GatherElements(_)
        | Op::Sizes(_)
        | Op::Range(_) => Dim::Const(0),
        // What its model computes is not known here.
        Op::Onnx(_) => Dim::Const(0),
        Op::Map(p) => {
            let computes = |step: &&MapStep| {
                matches!(step, MapStep::Unary(..) | MapStep::Binary(..) | MapStep::Select(..))
            };
            elements(output).times(p.steps.iter().filter(computes).count())
        }
        Op::MatMul(_) => match inputs.first().and_then(|a| a.shape.last()) {
            Some(k) => elements(output).times(k.clone()),
            None => Dim::Const(0),
        },
        Op::Reduce(_) => inputs.first().map_or(Dim::Const(0), |x| elements(x)),
        // Scores, their softmax, and what they weigh.
        Op::Attend(p) => match inputs {
            [q, k, ..] if q.shape.len() > 1 && k.shape.len() > 1 => {
                let (width, last) = (&q.shape[q.shape.len() - 1], k.shape.len() - 1);
                let keys = &k.shape[if p.keys_turned { last } else { last - 1 }];
                let scores = leading(output).times(keys.clone());
                scores.times(width.clone().plus(1u64)).plus(elements(output).times(keys.clone()))
            }
            _ => Dim::Const(0),
        },
        Op::Softmax(_) | Op::GroupNorm(_) | Op::Resize(_) => elements(output),
        Op::AveragePool2d(p) => elements(output).times(p.window.taps()),
        Op::ConvTranspose2d(_) => match inputs {
            [x, weight, ..] => leading(x).times(elements(weight)),
            _ => Dim::Const(0),
        },
        Op::Lstm(_) => match inputs {
            [x, w, r, ..] => leading(x).times(elements(w).plus(elements(r))),
            _ => Dim::Const(0),
        },
        // A sparse one with every channel; a call spends those that its rows keep.
        Op::Linear(_) | Op::SparseLinear(_) => match inputs {
            [x, weight, ..] => leading(x).times(elements(weight)),
            _ => Dim::Const(0),
        },
        Op::Attention(p) => Dim::symbol(Symbol::ATTENDED).times(2 * p.heads * p.head_dim),
        Op::Norm(_) | Op::Add(_) | Op::Activate(_) | Op::Gate(_) | Op::SoftCap(_) => {
            elements(output)
        }
        // Padding is counted with the pixels of the image. Each output sees a row of the weight.
        Op::Conv2d(_) => match inputs {
            [_, weight, ..] => leading(output).times(elements(weight)),
            _ => Dim::Const(0),
        },
        Op::DepthwiseConv2d(DepthwiseConv2d { window, .. })
        | Op::MaxPool2d(MaxPool2d { window }) => elements(output).times(window.taps()),
        Op::Pool(_) => inputs.first().map_or(Dim::Const(0), |x| elements(x)),
        Op::Choose(_) => match inputs {
            [x, gate, ..] => x.shape[0].clone().times(elements(gate)),
            _ => Dim::Const(0),
        },
        // At its largest choice; a call spends the share of the learners that its rows chose.
        Op::AdaptiveMlp(p) => match (inputs, inputs.get(3 + usize::from(p.bias))) {
            ([x, _, w1, ..], Some(w2)) => x.shape[0].clone().times(elements(w1).plus(elements(w2))),
            _ => Dim::Const(0),
        },
        // As above: of all experts as many as a token uses at most.
        Op::MoeMlp(p) => match (inputs, p.experts) {
            ([x, _, w1, w2, ..], 1..) => {
                let all = elements(w1).plus(elements(w2)).as_const().unwrap_or(0);
                let expert = all / p.experts as u64;
                x.shape[0].clone().times(expert.saturating_mul(p.top_k as u64))
            }
            _ => Dim::Const(0),
        },
        Op::Mix(p) => elements(output).times(p.parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck_plan::{
        Activation, AdaptiveMlp, Conv2d, DType, ExpertWeights, Linear, MoeMlp, Window,
    };

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
            factors: false,
            precise: false,
        });
        let cost = macs(&op, &[&x, &w], &y);
        assert_eq!(cost.eval(&|_| Some(7)), Some(7 * 15));
    }

    #[test]
    fn a_convolution_costs_its_weight_for_each_pixel_of_its_result() {
        let image = |rows: u64, cols: u64| {
            let rows = Dim::symbol(Symbol::SEQUENCES).times(rows);
            Fact::new(DType::F32, vec![rows, Dim::Const(cols)])
        };
        let window = Window {
            image: [5, 5],
            kernel: [3, 3],
            stride: [2, 2],
            padding: [1; 4],
            dilation: [1, 1],
        };
        let w = Fact::new(DType::F32, vec![Dim::Const(8), Dim::Const(9 * 2)]);
        let conv = Op::Conv2d(Conv2d {
            window: window.clone(),
            groups: 2,
            bias: false,
            activation: Activation::Relu,
            residual: false,
        });
        let cost = macs(&conv, &[&image(25, 4), &w], &image(9, 8));
        assert_eq!(cost, Dim::symbol(Symbol::SEQUENCES).times(9u64 * 8 * 9 * 2));
        let pool = Op::MaxPool2d(MaxPool2d { window });
        let cost = macs(&pool, &[&image(25, 4)], &image(9, 4));
        assert_eq!(cost, Dim::symbol(Symbol::SEQUENCES).times(9u64 * 4 * 9));
    }

    #[test]
    fn a_mixture_costs_the_experts_of_a_token() {
        let f32 = |rows: Dim, cols: u64| Fact::new(DType::F32, vec![rows, Dim::Const(cols)]);
        let tokens = || Dim::symbol("tokens");
        let (x, logits) = (f32(tokens(), 8), f32(tokens(), 4));
        let (w1, w2) = (f32(Dim::Const(4 * 64), 8), f32(Dim::Const(4 * 16), 32));
        let op = Op::MoeMlp(MoeMlp {
            site: 0,
            experts: 4,
            top_k: 2,
            activation: Activation::Silu,
            gated: true,
            weights: ExpertWeights::Renormalised,
            capacity: None,
            residual: false,
        });
        let cost = macs(&op, &[&x, &logits, &w1, &w2], &f32(tokens(), 16));
        assert_eq!(cost, tokens().times(2u64 * (64 * 8 + 16 * 32)));
    }

    #[test]
    fn an_adaptive_mlp_costs_both_of_its_matrices() {
        let f32 = |rows: Dim, cols: u64| Fact::new(DType::F32, vec![rows, Dim::Const(cols)]);
        let x = f32(Dim::symbol("tokens"), 8);
        let choice = Fact::new(DType::I32, vec![Dim::symbol("tokens")]);
        let (w1, b1) = (f32(Dim::Const(128), 8), f32(Dim::Const(1), 128));
        let w2 = f32(Dim::Const(3), 64);
        let op = Op::AdaptiveMlp(AdaptiveMlp {
            learners: 2,
            activation: Activation::Silu,
            gated: true,
            bias: true,
            out_bias: false,
            residual: false,
        });
        let y = f32(Dim::symbol("tokens"), 3);
        let cost = macs(&op, &[&x, &choice, &w1, &b1, &w2], &y);
        assert_eq!(cost, Dim::symbol("tokens").times(128u64 * 8 + 3 * 64));
    }
}
