//! Linears that leave out small channels.

use std::sync::Arc;

use limbeck_kernels::KvType;
use limbeck_plan::{
    Activation, Dim, Embedding, Layout, Level, Linear, Op, PackFormat, Site, SiteKind,
    SparseLinear, Values,
};

use super::harness::{
    Ask, Builder, Random, Running, VOCABULARY, compare, gpu, relative_error, tokens, tolerance,
};
use super::rows::plain;
use crate::backend::PlanData;
use crate::backend::fake::FakeBackend;

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
    let channels = |values| PackFormat { values, layout: Layout::Channels };
    for values in [Values::F16, Values::Q8, Values::Q4, Values::Q4m] {
        let columns = PackFormat::channels(values).filter(|f| f.layout == Layout::Columns);
        for format in [channels(values), PackFormat::linear(values)].into_iter().chain(columns) {
            for (rows, cols, gated) in
                [(1, 1, false), (33, 40, false), (130, 64, false), (96, 100, true), (320, 32, true)]
            {
                let data = plan(format, rows, cols, gated);
                let case = format!("{format}, {rows} x {cols}");
                compare(&data, &asks(), KvType::F32, tolerance(values), &case);
            }
        }
    }
    // More than two tiles of 1024 rows, more than one of 4096.
    for (format, rows) in
        [(channels(Values::Q4), 2100), (PackFormat::channels(Values::F16).unwrap(), 4130)]
    {
        let data = plan(format, rows, 33, false);
        compare(&data, &asks()[..3], KvType::F32, tolerance(format.values), "several tiles");
    }
}

/// One such linear, of a weight in f16 columns, on values of which every third channel is zero. The weight has
/// `unread` in these channels.
fn holes(unread: f32) -> Arc<PlanData> {
    let (rows, cols) = (70, 300);
    let mut b = Builder::new(5);
    let kind = SiteKind::Sparsity;
    b.sites.push(Site { name: "site".into(), kind, first: 0, costs: vec![0.5, 1.0], weight: 1.0 });
    let choice = b.choice(Op::Level(Level { site: 0, gains: vec![-0.5, 0.0] }), Vec::new());
    let with = |numbers: Vec<f32>, hole: f32| -> Vec<f32> {
        let at = |(i, v)| if i % cols % 3 == 1 { hole } else { v };
        numbers.into_iter().enumerate().map(at).collect()
    };
    let table = with(b.random.numbers(VOCABULARY * cols), 0.0);
    let table = b.weight(PackFormat::F32_ROW, VOCABULARY, cols, &table);
    let x = b.step(
        Op::Embedding(Embedding { scale: 1.0 }),
        vec![0, table],
        vec![tokens(), Dim::from(cols)],
    );
    let weight = with(b.random.numbers(rows * cols), unread);
    let format = PackFormat::channels(Values::F16).unwrap();
    let weight = b.weight(format, rows, cols, &weight);
    let weights = b.weight(PackFormat::F32_ROW, 1, cols, &vec![1.0; cols]);
    let params = SparseLinear { linear: plain(), thresholds: vec![0.2, 0.0] };
    let shape = vec![tokens(), Dim::from(rows)];
    b.output("y", Op::SparseLinear(params), vec![x, weight, choice, weights], shape);
    b.plan()
}

#[test]
fn few_rows_read_nothing_of_channels_that_are_left_out() {
    let Some(gpu) = gpu() else { return };
    let mut random = Random::new(3);
    let mut expected = Running::new(&FakeBackend::default(), &holes(0.0), KvType::F32);
    let mut found = Running::new(gpu, &holes(f32::NAN), KvType::F32);
    for rows in [1, 2, 5, 8] {
        for price in [0.0, 1.0] {
            let ask = Ask { price, ..Ask::of(&mut random, &[rows]) };
            let whole = expected.run(&ask, false);
            let used = found.run(&ask, false);
            let error = relative_error(&found.output("y"), &expected.output("y"));
            assert!(error <= 1e-5, "{rows} rows at {price}: relative error {error:.2e}");
            assert_eq!(used.macs, whole.macs);
        }
    }
    // 96 rows of the weight in f16, 300 of 320 columns of it.
    let mut bytes = |price| {
        let spent = found.run(&Ask { price, ..Ask::of(&mut Random::new(4), &[1]) }, false);
        (spent.macs, spent.bytes)
    };
    let (all, some) = (bytes(0.0), bytes(1.0));
    assert_eq!(all.0, 70 * 300);
    assert_eq!(all.1 - some.1, (all.0 - some.0) / 70 * 2 * 96);
}
