//! Sites: gates, adaptive MLPs, mixtures of experts, with prices and forced choices.

use std::sync::Arc;

use limbeck_kernels::KvType;
use limbeck_plan::{
    Activation, AdaptiveMlp, Capacity, Choose, Dim, ExpertWeights, GateTransform, Mix, MixRule,
    MoeMlp, Op, PackFormat, Site, SiteKind, Values,
};

use super::harness::{
    Ask, Builder, Random, compare, compare_on, small_bindings, tokens, tolerance,
};
use crate::backend::PlanData;
use crate::backend::wgpu::buffers::Weights;
use crate::backend::wgpu::state::counted_units;

const FORMATS: [Values; 5] = [Values::F32, Values::F16, Values::Q8, Values::Q4, Values::Q4m];

fn site(kind: SiteKind, first: usize, choices: usize) -> Site {
    let costs = (0..choices).map(|i| (i + first) as f64 / (choices + first - 1).max(1) as f64);
    Site { name: "site".into(), kind, first, costs: costs.collect(), weight: 0.8 }
}

/// Calls at several prices, of one row and of many, and one with forced choices.
fn asks(choices: std::ops::RangeInclusive<i32>) -> Vec<Ask> {
    let mut random = Random::new(9);
    let mut asks = Vec::new();
    for (price, rows) in [(0.0, 1), (0.7, 1), (0.7, 3), (0.3, 40), (5.0, 9), (f32::MAX, 2)] {
        asks.push(Ask { price, ..Ask::of(&mut random, &[rows]) });
    }
    let mut forced = Ask::of(&mut random, &[21]);
    let span = (choices.end() - choices.start() + 2) as usize;
    let mut choice = || match random.below(span) as i32 {
        0 => -1,
        k => choices.start() + k - 1,
    };
    forced.forced = Some((0..21).map(|_| choice()).collect());
    forced.price = 0.4;
    asks.push(forced);
    asks
}

fn adaptive(values: Values, p: &AdaptiveMlp, transform: GateTransform) -> Arc<PlanData> {
    let (k, block, m) = (48, 32, 40);
    let hidden = p.learners * block;
    let mut b = Builder::new(p.learners as u64);
    b.sites.push(site(SiteKind::Acm, 0, p.learners + 1));
    let x = b.activation(k);
    let gate = b.matrix(PackFormat::F32_ROW, p.learners + 1, k);
    let bias = b.vector(p.learners + 1);
    let choice = b.choice(Op::Choose(Choose { site: 0, transform, first: 0 }), vec![x, gate, bias]);
    let rows = if p.gated { 2 * hidden } else { hidden };
    let format = PackFormat::linear(values);
    let mut inputs = vec![x, choice, b.matrix(format, rows, k)];
    if p.bias {
        inputs.push(b.vector(rows));
    }
    inputs.push(b.matrix(format, m, hidden));
    if p.out_bias {
        inputs.push(b.matrix(PackFormat::F32_ROW, p.learners + 1, m));
    }
    if p.residual {
        inputs.push(b.activation(m));
    }
    b.output("y", Op::AdaptiveMlp(p.clone()), inputs, vec![tokens(), Dim::from(m)]);
    b.plan()
}

#[test]
fn adaptive_mlps_compute_as_far_as_their_gates_choose() {
    for (i, values) in FORMATS.into_iter().enumerate() {
        for learners in [1, 3, 8] {
            let p = AdaptiveMlp {
                learners,
                activation: if i % 2 == 0 { Activation::Gelu } else { Activation::Silu },
                gated: i % 2 == 1,
                bias: i % 3 == 0,
                out_bias: learners != 3,
                residual: i != 1,
            };
            let transform =
                if i % 2 == 0 { GateTransform::Identity } else { GateTransform::NegExp2 };
            let data = adaptive(values, &p, transform);
            compare(
                &data,
                &asks(0..=learners as i32),
                KvType::F32,
                tolerance(values),
                &format!("{values:?} {p:?}"),
            );
        }
    }
}

fn mixture(experts: usize, top_k: usize) -> MoeMlp {
    MoeMlp {
        site: 0,
        experts,
        top_k,
        activation: Activation::Silu,
        gated: true,
        weights: ExpertWeights::Renormalised,
        capacity: None,
        residual: false,
    }
}

fn moe(values: Values, p: &MoeMlp) -> Arc<PlanData> {
    moe_of(values, p, [40, 48, 32])
}

/// Of inputs, hidden units and results so many.
fn moe_of(values: Values, p: &MoeMlp, [k, hidden, m]: [usize; 3]) -> Arc<PlanData> {
    let mut b = Builder::new(p.experts as u64);
    b.sites.push(site(SiteKind::Experts, 1, p.top_k));
    let (x, logits) = (b.activation(k), b.activation(p.experts));
    let format = PackFormat::linear(values);
    let rows = if p.gated { 2 * hidden } else { hidden };
    let mut inputs = vec![x, logits, b.matrix(format, p.experts * rows, k)];
    inputs.push(b.matrix(format, p.experts * m, hidden));
    if p.residual {
        inputs.push(b.activation(m));
    }
    b.output("y", Op::MoeMlp(p.clone()), inputs, vec![tokens(), Dim::from(m)]);
    b.plan()
}

#[test]
fn counters_have_a_high_word() {
    let words = [7u32, 3].map(f32::from_bits);
    assert_eq!(counted_units(&words), 3 * (1 << 32) + 7);
}

#[test]
fn mixtures_route_as_the_reference() {
    for (i, values) in FORMATS.into_iter().enumerate() {
        for (experts, top_k) in [(1, 1), (4, 2), (9, 4)] {
            for capacity in [None, Some(Capacity { factor: 0.6, min: 1 })] {
                let p = MoeMlp {
                    site: 0,
                    experts,
                    top_k,
                    activation: Activation::Silu,
                    gated: i % 2 == 0,
                    weights: match i % 3 {
                        0 => ExpertWeights::Probabilities,
                        _ => ExpertWeights::Renormalised,
                    },
                    capacity,
                    residual: i != 2,
                };
                let case = format!("{values:?} {p:?}");
                let asks = asks(1..=top_k as i32);
                compare(&moe(values, &p), &asks, KvType::F32, tolerance(values), &case);
            }
        }
    }
}

#[test]
fn one_row_of_many_experts_and_wide_inputs_has_room() {
    let p = mixture(16, 12);
    for values in [Values::Q8, Values::Q4m] {
        let data = moe_of(values, &p, [1024, 16, 32]);
        compare(&data, &asks(1..=12), KvType::F32, tolerance(values), "12 of 16 experts");
    }
}

#[test]
fn tiles_that_end_in_a_small_last_shard_are_computed_there() {
    let Some(backend) = small_bindings() else { return };
    let p = MoeMlp { gated: false, ..mixture(2, 2) };
    // 224 rows of 96: shards of 192 and 32, and the last tile of the second expert begins 16 rows before the latter.
    let data = moe_of(Values::F32, &p, [40, 96, 112]);
    let shards = Weights::upload(&backend.gpu, &data).expect("shards");
    let down = data.plan.program().weights.iter().position(|weight| weight.rows == 224);
    let down = shards.get(down.expect("a weight")).expect("its shards");
    let rows: Vec<_> = down.shards.iter().map(|shard| shard.rows).collect();
    assert_eq!(rows, [192, 32]);
    compare_on(&backend, &data, &asks(1..=2), KvType::F32, 1e-5, "a small last shard");
}

#[test]
fn mixtures_of_more_experts_than_a_group_has_lanes_route_as_the_reference() {
    let p = mixture(300, 2);
    let data = moe(Values::Q8, &p);
    compare(&data, &asks(1..=2), KvType::F32, tolerance(Values::Q8), "300 experts");
}

#[test]
fn experts_beyond_a_binding_are_cut_into_shards() {
    let Some(backend) = small_bindings() else { return };
    for (values, experts) in [(Values::F32, 9), (Values::Q8, 33), (Values::Q4m, 49)] {
        let p = MoeMlp { residual: true, ..mixture(experts, 3) };
        let data = moe(values, &p);
        let sizes = data.plan.program().weights.iter().map(|weight| weight.bytes);
        assert!(sizes.max() > Some(80 << 10), "{values:?}: one shard");
        compare_on(&backend, &data, &asks(1..=3), KvType::F32, tolerance(values), "shards");
    }
}

#[test]
fn mixes_match_the_reference() {
    for rule in [MixRule::Sigmoid, MixRule::Softmax] {
        for (parts, residual) in [(1, true), (2, false), (5, true)] {
            let mut b = Builder::new(parts as u64);
            let mut inputs = vec![b.activation(parts)];
            inputs.extend((0..parts).map(|_| b.activation(37)));
            if residual {
                inputs.push(b.activation(37));
            }
            let op = Op::Mix(Mix { parts, rule, residual });
            b.output("y", op, inputs, vec![tokens(), Dim::from(37u64)]);
            let asks = [&[1][..], &[30]].map(|rows| Ask::of(&mut Random::new(4), rows));
            compare(&b.plan(), &asks, KvType::F32, 1e-5, &format!("{rule:?}, {parts} parts"));
        }
    }
}
