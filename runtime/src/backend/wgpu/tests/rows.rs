//! Linears of every format, embeddings, norms, and the smaller ops.

use limbeck_kernels::KvType;
use limbeck_plan::{
    Activate, Activation, Add, Dim, Embedding, Gate, Layout, Linear, Norm, NormKind, Op,
    PackFormat, Pool, Pooling, SelectRows, SoftCap, Symbol, Values,
};
use proptest::prelude::*;

use super::harness::{
    Ask, Builder, Part, Random, VOCABULARY, compare, compare_on, small_bindings, tokens, tolerance,
};

const ACTIVATIONS: [Activation; 10] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Relu6,
    Activation::HardSwish,
];

const LINEAR: [Values; 6] =
    [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m];

#[derive(Clone, Debug)]
struct Case {
    values: Values,
    rows: usize,
    cols: usize,
    tokens: Vec<usize>,
    params: Linear,
}

/// Runs a linear for each number of tokens in turn, so that recordings are made anew and found again.
fn check_linear(case: &Case, seed: u64) {
    let mut b = Builder::new(seed);
    let Case { values, rows, cols, params, .. } = case;
    let outputs = if params.gated { rows / 2 } else { *rows };
    let mut inputs = vec![b.activation(*cols), b.matrix(PackFormat::linear(*values), *rows, *cols)];
    if params.bias {
        inputs.push(b.vector(*rows));
    }
    if params.residual {
        inputs.push(b.activation(outputs));
    }
    if params.factors {
        inputs.push(b.vector(*cols));
    }
    b.output("y", Op::Linear(params.clone()), inputs, vec![tokens(), Dim::from(outputs)]);
    let mut random = Random::new(seed + 1);
    let asks: Vec<Ask> = case.tokens.iter().map(|n| Ask::of(&mut random, &[*n])).collect();
    compare(&b.plan(), &asks, KvType::F32, 1e-5, &format!("{case:?}"));
}

pub(super) fn plain() -> Linear {
    Linear {
        bias: false,
        activation: Activation::Identity,
        gated: false,
        residual: false,
        factors: false,
        precise: false,
    }
}

#[test]
fn linears_of_every_format_and_edge_shape_match_the_reference() {
    for values in LINEAR {
        for (rows, cols) in
            [(1, 1), (7, 31), (8, 32), (16, 64), (17, 33), (65, 100), (130, 257), (9, 4260)]
        {
            let case =
                Case { values, rows, cols, tokens: vec![1, 3, 8, 9, 33, 1], params: plain() };
            check_linear(&case, (rows * cols) as u64);
        }
    }
}

#[test]
fn linears_with_every_epilogue_match_the_reference() {
    for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
        for gated in [false, true] {
            let params = Linear {
                bias: i % 2 == 0,
                activation,
                gated,
                residual: i % 3 == 0,
                factors: i % 4 == 0,
                precise: i % 2 == 1,
            };
            let values = LINEAR[i % LINEAR.len()];
            let case = Case { values, rows: 80, cols: 96, tokens: vec![1, 4, 21, 64], params };
            check_linear(&case, i as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn linears_of_random_shapes_match_the_reference(
        values in prop::sample::select(&LINEAR[..]),
        tiles in 1usize..12,
        cut in 0usize..16,
        cols in 1usize..300,
        tokens in 1usize..80,
        flags in 0u32..32,
        activation in prop::sample::select(&ACTIVATIONS[..]),
    ) {
        let gated = flags & 1 != 0;
        let rows = if gated { tiles * 16 } else { tiles * 16 - cut };
        let params = Linear {
            bias: flags & 2 != 0,
            activation,
            gated,
            residual: flags & 4 != 0,
            factors: flags & 8 != 0,
            precise: flags & 16 != 0,
        };
        check_linear(&Case { values, rows, cols, tokens: vec![tokens], params }, cols as u64);
    }
}

#[test]
fn embeddings_of_every_format_match_the_reference() {
    let rows = PackFormat::F32_ROW;
    let halves = PackFormat { values: Values::F16, layout: Layout::Row };
    for format in LINEAR.into_iter().map(PackFormat::linear).chain([rows, halves]) {
        for cols in [1, 31, 64, 100] {
            let mut b = Builder::new(cols as u64);
            let table = b.matrix(format, VOCABULARY, cols);
            let op = Op::Embedding(Embedding { scale: 1.5 });
            b.output("y", op, vec![0, table], vec![tokens(), Dim::from(cols)]);
            let mut random = Random::new(3);
            let asks = [Ask::of(&mut random, &[1]), Ask::of(&mut random, &[70])];
            compare(&b.plan(), &asks, KvType::F32, 1e-6, &format!("{format}, {cols} columns"));
        }
    }
}

/// A device that can bind a part of these weights at a time.
#[test]
fn weights_beyond_a_binding_are_cut_into_shards() {
    let Some(backend) = small_bindings() else { return };
    for (values, cols) in [(Values::F32, 100), (Values::F16, 200), (Values::Q8, 400)] {
        for gated in [false, true] {
            let rows = 320;
            let mut b = Builder::new(cols as u64);
            let table = b.matrix(PackFormat::linear(values), VOCABULARY * 8, cols);
            let op = Op::Embedding(Embedding { scale: 1.0 });
            let x = b.step(op, vec![0, table], vec![tokens(), Dim::from(cols)]);
            let weight = b.matrix(PackFormat::linear(values), rows, cols);
            let params = Linear { gated, bias: true, activation: Activation::Silu, ..plain() };
            let inputs = vec![x, weight, b.vector(rows)];
            let outputs = if gated { rows / 2 } else { rows };
            b.output("y", Op::Linear(params), inputs, vec![tokens(), Dim::from(outputs)]);
            let mut random = Random::new(3);
            let mut asks = [1, 5, 19].map(|n| Ask::of(&mut random, &[n]));
            asks.iter_mut().flat_map(|ask| &mut ask.ids).for_each(|id| *id *= 8);
            let case = format!("{values:?}, gated {gated}");
            compare_on(&backend, &b.plan(), &asks, KvType::F32, 1e-5, &case);
        }
    }
}

#[test]
fn norms_match_the_reference() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (cols, bias) in [(1, false), (5, true), (64, true), (200, false), (577, true)] {
            let mut b = Builder::new(cols as u64);
            let mut inputs = vec![b.activation(cols), b.vector(cols)];
            if bias {
                inputs.push(b.vector(cols));
            }
            let op = Op::Norm(Norm { kind, eps: 1e-5, bias });
            b.output("y", op, inputs, vec![tokens(), Dim::from(cols)]);
            let mut random = Random::new(3);
            let asks = [Ask::of(&mut random, &[1]), Ask::of(&mut random, &[19])];
            compare(&b.plan(), &asks, KvType::F32, 1e-5, &format!("{kind:?}, {cols} columns"));
        }
    }
}

/// A norm before a linear, which few rows meet as its prologue and many as a step.
#[test]
fn linears_behind_a_norm_match_the_reference() {
    for (i, values) in LINEAR.into_iter().enumerate() {
        for (kind, cols, norm_bias) in
            [(NormKind::Rms, 96, false), (NormKind::Layer, 77, true), (NormKind::Rms, 4260, true)]
        {
            let mut b = Builder::new(cols as u64);
            let mut inputs = vec![b.activation(cols), b.vector(cols)];
            if norm_bias {
                inputs.push(b.vector(cols));
            }
            let op = Op::Norm(Norm { kind, eps: 1e-5, bias: norm_bias });
            let x = b.step(op, inputs, vec![tokens(), Dim::from(cols)]);
            let params = Linear { factors: i % 2 == 0, precise: i % 3 == 0, ..plain() };
            let mut inputs = vec![x, b.matrix(PackFormat::linear(values), 40, cols)];
            if params.factors {
                inputs.push(b.vector(cols));
            }
            b.output("y", Op::Linear(params), inputs, vec![tokens(), Dim::from(40u64)]);
            let mut random = Random::new(3);
            let asks = [1, 3, 8, 9].map(|n| Ask::of(&mut random, &[n]));
            let case = format!("{values:?}, {kind:?}, {cols} columns");
            compare(&b.plan(), &asks, KvType::F32, tolerance(values), &case);
        }
    }
}

#[test]
fn elementwise_ops_match_the_reference() {
    let ops = ACTIVATIONS.into_iter().flat_map(|activation| {
        [Op::Activate(Activate { activation }), Op::Gate(Gate { activation })]
    });
    for op in ops.chain([Op::Add(Add {}), Op::SoftCap(SoftCap { cap: 0.7 })]) {
        let mut b = Builder::new(5);
        let count = if matches!(op, Op::Activate(_) | Op::SoftCap(_)) { 1 } else { 2 };
        let inputs = (0..count).map(|_| b.activation(67)).collect();
        let case = format!("{op:?}");
        b.output("y", op, inputs, vec![tokens(), Dim::from(67u64)]);
        let mut random = Random::new(3);
        let asks = [Ask::of(&mut random, &[1]), Ask::of(&mut random, &[41])];
        compare(&b.plan(), &asks, KvType::F32, 1e-5, &case);
    }
}

#[test]
fn selected_rows_are_those_asked_for() {
    let mut b = Builder::new(5);
    let x = b.activation(33);
    let shape = vec![Dim::symbol(Symbol::OUTPUTS), Dim::from(33u64)];
    b.output("y", Op::SelectRows(SelectRows {}), vec![x], shape);
    let mut random = Random::new(3);
    let asks = [vec![], vec![8], vec![0, 3, 3, 1]]
        .map(|outputs| Ask { outputs, ..Ask::of(&mut random, &[9]) });
    compare(&b.plan(), &asks, KvType::F32, 0.0, "select_rows");
}

#[test]
fn pools_match_the_reference() {
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        for normalise in [false, true] {
            let mut b = Builder::new(5);
            let x = b.activation(70);
            let shape = vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(70u64)];
            b.output("y", Op::Pool(Pool { pooling, normalise }), vec![x], shape);
            let mut ask = Ask::of(&mut Random::new(3), &[4, 1, 7]);
            ask.parts[2] = Part { rows: 7, keys: 5 };
            compare(&b.plan(), &[ask], KvType::F32, 1e-5, &format!("{pooling:?} {normalise}"));
        }
    }
}
