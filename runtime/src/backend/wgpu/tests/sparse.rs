//! Linears that leave out small channels.

use std::sync::Arc;

use limbeck_kernels::KvType;
use limbeck_plan::{
    Activation, Dim, Layout, Level, Linear, Op, PackFormat, Site, SiteKind, SparseLinear, Values,
};

use super::harness::{Ask, Builder, Random, compare, tokens, tolerance};
use crate::backend::PlanData;

const THRESHOLDS: [f32; 4] = [0.6, 0.3, 0.1, 0.0];

/// Two such linears after one another, of a weight in this format.
fn plan(format: PackFormat, rows: usize, cols: usize, gated: bool) -> Arc<PlanData> {
    let mut b = Builder::new((rows + cols) as u64);
    let costs = (0..THRESHOLDS.len()).map(|i| (i + 1) as f64 / THRESHOLDS.len() as f64).collect();
    let kind = SiteKind::Sparsity;
    b.sites.push(Site { name: "site".into(), kind, first: 0, costs, weight: 1.0 });
    let gains = vec![-0.9, -0.4, -0.1, 0.0];
    let choice = b.choice(Op::Level(Level { site: 0, gains }), Vec::new());
    let mut x = b.activation(cols);
    let linear = |bias, gated, residual| Linear {
        bias,
        activation: Activation::Silu,
        gated,
        residual,
        factors: false,
        precise: false,
    };
    let (outputs, mut from) = (if gated { rows / 2 } else { rows }, cols);
    for (last, bias) in [(false, true), (true, false)] {
        let mut inputs = vec![x, b.matrix(format, rows, from)];
        if bias {
            inputs.push(b.vector(rows));
        } else {
            inputs.push(b.activation(outputs));
        }
        let weights: Vec<f32> = (0..from).map(|i| 0.5 + (i % 5) as f32 / 4.0).collect();
        inputs.extend([choice, b.weight(PackFormat::F32_ROW, 1, from, &weights)]);
        let params =
            SparseLinear { linear: linear(bias, gated, !bias), thresholds: THRESHOLDS.to_vec() };
        let shape = vec![tokens(), Dim::from(outputs)];
        if last {
            b.output("y", Op::SparseLinear(params), inputs, shape);
            break;
        }
        x = b.step(Op::SparseLinear(params), inputs, shape);
        from = outputs;
    }
    b.plan()
}

fn asks() -> Vec<Ask> {
    let mut random = Random::new(9);
    let mut asks = Vec::new();
    for (price, rows) in [(0.0, 1), (0.5, 1), (1.3, 3), (2.1, 8), (1.3, 40), (f32::MAX, 9)] {
        asks.push(Ask { price, ..Ask::of(&mut random, &[rows]) });
    }
    let mut forced = Ask::of(&mut random, &[21]);
    forced.forced = Some((0..21).map(|i| i % 5 - 1).collect());
    forced.price = 1.3;
    asks.push(forced);
    asks
}

#[test]
fn linears_without_small_channels_match_the_reference() {
    for values in [Values::F16, Values::Q8, Values::Q4, Values::Q4m] {
        let channels = PackFormat { values, layout: Layout::Channels };
        for format in [channels, PackFormat::linear(values)] {
            for (rows, cols, gated) in
                [(1, 1, false), (33, 40, false), (130, 64, false), (96, 100, true), (320, 32, true)]
            {
                let data = plan(format, rows, cols, gated);
                let case = format!("{format}, {rows} x {cols}");
                compare(&data, &asks(), KvType::F32, tolerance(values), &case);
            }
        }
    }
    // More than one tile of 1024 rows.
    let channels = PackFormat { values: Values::Q4, layout: Layout::Channels };
    let data = plan(channels, 2100, 33, false);
    compare(&data, &asks()[..3], KvType::F32, tolerance(Values::Q4), "two tiles");
}
