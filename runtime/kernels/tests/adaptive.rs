//! Adaptive ops for every instruction set and number format: against the reference, against the
//! dense MLP of a row's width, and without regard to the other rows.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    AdaptiveMlpArgs, AdaptiveScratch, ChooseArgs, ErrorKind, Kernels, LinearArgs, LinearScratch,
    Packed, Pool, adaptive_mlp, choose, linear, pack_rows,
};
use limbeck_plan::{Activation, GateTransform, Layout, PackFormat, Values};

const FORMATS: [Values; 5] = [Values::F32, Values::F16, Values::Q8, Values::Q4, Values::Q4m];
const LEARNERS: usize = 3;

/// An MLP of three learners of 32 units, `[T, 70] -> [T, 41]`.
struct Case {
    format: PackFormat,
    gated: bool,
    x: Vec<f32>,
    choice: Vec<i32>,
    w1: Vec<u8>,
    w1_values: Vec<f32>,
    b1: Option<Vec<f32>>,
    w2: Vec<u8>,
    w2_values: Vec<f32>,
    out_bias: Option<Vec<u8>>,
    residual: Option<Vec<f32>>,
    activation: Activation,
}

const COLS: usize = 70;
const HIDDEN: usize = 32 * LEARNERS;
const OUT: usize = 41;

fn pack(format: PackFormat, cols: usize, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack_rows(format, cols, values, &mut bytes).unwrap();
    bytes
}

impl Case {
    fn new(seed: u64, values: Values, rows: usize, gated: bool) -> Case {
        let mut random = Random::new(seed);
        let format = PackFormat::linear(values);
        let h1 = if gated { 2 * HIDDEN } else { HIDDEN };
        let (w1_values, w2_values) = (random.floats(h1 * COLS), random.floats(OUT * HIDDEN));
        let whole = random.below(2) == 0;
        // Now and then all rows choose alike.
        let alike = (random.below(4) == 0).then(|| random.below(LEARNERS + 1) as i32);
        let choice = |random: &mut Random| random.below(LEARNERS + 1) as i32;
        Case {
            format,
            gated,
            x: random.floats(rows * COLS),
            choice: (0..rows).map(|_| alike.unwrap_or_else(|| choice(&mut random))).collect(),
            w1: pack(format, COLS, &w1_values),
            w1_values,
            b1: whole.then(|| random.floats(h1)),
            w2: pack(format, HIDDEN, &w2_values),
            w2_values,
            out_bias: whole
                .then(|| pack(PackFormat::F32_ROW, OUT, &random.floats((LEARNERS + 1) * OUT))),
            residual: (random.below(2) == 0).then(|| random.floats(rows * OUT)),
            activation: [Activation::Gelu, Activation::Identity, Activation::Silu][random.below(3)],
        }
    }

    fn w1(&self) -> Packed<'_> {
        let rows = if self.gated { 2 * HIDDEN } else { HIDDEN };
        Packed::new(self.format, rows, COLS, &self.w1).unwrap()
    }

    fn w2(&self) -> Packed<'_> {
        Packed::new(self.format, OUT, HIDDEN, &self.w2).unwrap()
    }

    fn args<'a>(&'a self, out: &'a mut [f32]) -> AdaptiveMlpArgs<'a> {
        let bias = self.out_bias.as_ref();
        AdaptiveMlpArgs {
            x: &self.x,
            choice: &self.choice,
            w1: self.w1(),
            b1: self.b1.as_deref(),
            w2: self.w2(),
            out_bias: bias.map(|b| Packed::new(PackFormat::F32_ROW, LEARNERS + 1, OUT, b).unwrap()),
            residual: self.residual.as_deref(),
            learners: LEARNERS,
            activation: self.activation,
            gated: self.gated,
            out,
        }
    }

    fn run(&self, kernels: &Kernels, pool: &Pool) -> Vec<f32> {
        let mut out = poison(self.choice.len() * OUT);
        let mut scratch = AdaptiveScratch::default();
        adaptive_mlp(kernels, pool, &mut scratch, self.args(&mut out)).unwrap();
        out
    }

    /// Only these rows, in this order.
    fn rows(&self, rows: &[usize]) -> Case {
        let pick = |values: &[f32], cols: usize| {
            rows.iter().flat_map(|r| values[r * cols..][..cols].to_vec()).collect()
        };
        Case {
            x: pick(&self.x, COLS),
            choice: rows.iter().map(|r| self.choice[*r]).collect(),
            residual: self.residual.as_ref().map(|r| pick(r, OUT)),
            w1: self.w1.clone(),
            w1_values: self.w1_values.clone(),
            b1: self.b1.clone(),
            w2: self.w2.clone(),
            w2_values: self.w2_values.clone(),
            out_bias: self.out_bias.clone(),
            ..*self
        }
    }

    fn name(&self) -> String {
        format!("{} gated {} choices {:?}", self.format, self.gated, self.choice)
    }
}

fn each(mut check: impl FnMut(&Case, &Kernels, u64)) {
    let mut seed = 0;
    for kernels in all_kernels() {
        for values in FORMATS {
            for rows in 1..=17 {
                seed += 1;
                if sampled(seed) {
                    check(&Case::new(seed, values, rows, seed % 3 == 0), &kernels, seed);
                }
            }
        }
    }
}

#[test]
fn rows_match_the_reference_and_depend_on_nothing_else() {
    let pools = [Pool::new(1), Pool::new(3)];
    each(|case, kernels, seed| {
        let what = format!("{} {}", kernels.isa(), case.name());
        let got = case.run(kernels, &pools[0]);
        let mut want = poison(got.len());
        reference::adaptive_mlp(case.args(&mut want), Products::Quantised).unwrap();
        // A hidden value at the edge of an 8-bit step may fall to either side of it.
        let tolerance = if case.format.values.is_quantised() { 5e-3 } else { 1e-5 };
        assert_close(&got, &want, tolerance, &what);
        assert_same_bits(&case.run(kernels, &pools[1]), &got, &what);
        let count = case.choice.len();
        let mut random = Random::new(seed);
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, random.below(i + 1));
        }
        let shuffled = case.rows(&order).run(kernels, &pools[1]);
        for (at, row) in order.into_iter().enumerate() {
            let want = &got[row * OUT..][..OUT];
            assert_same_bits(&shuffled[at * OUT..][..OUT], want, &what);
            assert_same_bits(&case.rows(&[row]).run(kernels, &pools[0]), want, &what);
        }
    });
}

/// The first learners' weights packed on their own are a dense MLP with the same bits.
#[test]
fn a_row_has_the_bits_of_the_dense_mlp_of_its_width() {
    let pool = Pool::new(2);
    each(|case, kernels, _| {
        let got = case.run(kernels, &pool);
        for (row, choice) in case.choice.iter().enumerate() {
            let residual = case.residual.as_ref().map(|r| &r[row * OUT..][..OUT]);
            let bias = case.args(&mut []).out_bias.map(|table| {
                let mut bias = vec![0.0; OUT];
                table.unpack_row(*choice as usize, &mut bias).unwrap();
                bias
            });
            let found = &got[row * OUT..][..OUT];
            if *choice == 0 {
                let bias = bias.unwrap_or_else(|| vec![0.0; OUT]);
                let want = bias.iter().enumerate().map(|(i, b)| residual.map_or(*b, |r| b + r[i]));
                assert_same_bits(found, &want.collect::<Vec<_>>(), &case.name());
                continue;
            }
            let units = 32 * *choice as usize;
            let h1 = if case.gated { 2 * units } else { units };
            // Each block of a row is quantised on its own, so those of the prefix are the same.
            let w1 = pack(case.format, COLS, &case.w1_values[..h1 * COLS]);
            let rows = case.w2_values.chunks_exact(HIDDEN).flat_map(|row| &row[..units]);
            let w2 = pack(case.format, units, &rows.copied().collect::<Vec<_>>());
            let dense = |x: &[f32], w, bias, activation, gated, residual, n: usize| {
                let mut out = poison(n);
                let args = LinearArgs {
                    x,
                    norm: None,
                    factors: None,
                    w,
                    bias,
                    activation,
                    gated,
                    residual,
                    precise: false,
                    out: &mut out,
                };
                linear(kernels, &pool, &mut LinearScratch::default(), args).unwrap();
                out
            };
            let x = &case.x[row * COLS..][..COLS];
            let w1 = Packed::new(case.format, h1, COLS, &w1).unwrap();
            let b1 = case.b1.as_ref().map(|b| &b[..h1]);
            let hidden = dense(x, w1, b1, case.activation, case.gated, None, units);
            let w2 = Packed::new(case.format, OUT, units, &w2).unwrap();
            let identity = Activation::Identity;
            let want = dense(&hidden, w2, bias.as_deref(), identity, false, residual, OUT);
            assert_same_bits(found, &want, &case.name());
        }
    });
}

/// Of several blocks of rows and many tasks, whose rows have the bits that they have alone.
#[test]
fn many_rows_of_mixed_choices_are_the_rows_alone() {
    const LEARNERS: usize = 4;
    let (cols, hidden, n, rows) = (96, 1024, 200, 260);
    let mut random = Random::new(7);
    for values in [Values::F32, Values::Q4] {
        let format = PackFormat::linear(values);
        let w1 = pack(format, cols, &random.floats(2 * hidden * cols));
        let w2 = pack(format, hidden, &random.floats(n * hidden));
        let biases = pack(PackFormat::F32_ROW, n, &random.floats((LEARNERS + 1) * n));
        let (x, residual) = (random.floats(rows * cols), random.floats(rows * n));
        for choices in [&[2, 0, 4, 1, 3][..], &[1, 1, 1, 4], &[3, 0], &[4]] {
            let choice: Vec<i32> = (0..rows).map(|row| choices[row % choices.len()]).collect();
            let run = |kernels: &Kernels, pool: &Pool, picked: std::ops::Range<usize>| {
                let mut out = poison(picked.len() * n);
                let args = AdaptiveMlpArgs {
                    x: &x[picked.start * cols..picked.end * cols],
                    choice: &choice[picked.clone()],
                    w1: Packed::new(format, 2 * hidden, cols, &w1).unwrap(),
                    b1: None,
                    w2: Packed::new(format, n, hidden, &w2).unwrap(),
                    out_bias: Some(
                        Packed::new(PackFormat::F32_ROW, LEARNERS + 1, n, &biases).unwrap(),
                    ),
                    residual: Some(&residual[picked.start * n..picked.end * n]),
                    learners: LEARNERS,
                    activation: Activation::Silu,
                    gated: true,
                    out: &mut out,
                };
                adaptive_mlp(kernels, pool, &mut AdaptiveScratch::default(), args).unwrap();
                out
            };
            for kernels in all_kernels() {
                let what = format!("{} {format} choices {choices:?}", kernels.isa());
                let one = Pool::new(1);
                let alone: Vec<f32> = (0..rows)
                    .step_by(13)
                    .flat_map(|row| run(&kernels, &one, row..row + 1))
                    .collect();
                for (threads, count) in [(1, rows), (2, rows), (5, rows), (3, 7)] {
                    let found = run(&kernels, &Pool::new(threads), 0..count);
                    let found: Vec<f32> =
                        found.chunks(n).step_by(13).flat_map(<[f32]>::to_vec).collect();
                    assert_same_bits(&found, &alone[..found.len()], &what);
                }
            }
        }
    }
}

fn gate_args<'a>(
    x: &'a [f32],
    gate: Packed<'a>,
    bias: &'a [f32],
    transform: GateTransform,
    price: f32,
    out: &'a mut [i32],
) -> ChooseArgs<'a> {
    let costs = &[0.0, 0.25, 0.5, 0.75, 1.0];
    ChooseArgs { x, gate, bias, transform, first: 1, costs, weight: 2.0, price, out }
}

#[test]
fn choices_follow_gains_and_prices() {
    let pool = Pool::new(2);
    let mut random = Random::new(5);
    let (rows, cols, count) = (17, 70, 5);
    let (x, bias) = (random.floats(rows * cols), random.floats(count));
    let gate = f32_rows(&random.floats(count * cols));
    let gate = Packed::new(PackFormat::F32_ROW, count, cols, &gate).unwrap();
    for kernels in all_kernels() {
        for transform in [GateTransform::Identity, GateTransform::NegExp2] {
            let mut last = vec![i32::MAX; rows];
            for price in [0.0, 0.1, 1.0, 10.0, f32::MAX] {
                let mut scratch = AdaptiveScratch::default();
                let (mut found, mut want) = (vec![0; rows], vec![0; rows]);
                choose(
                    &kernels,
                    &pool,
                    &mut scratch,
                    gate_args(&x, gate, &bias, transform, price, &mut found),
                )
                .unwrap();
                reference::choose(gate_args(&x, gate, &bias, transform, price, &mut want)).unwrap();
                assert_eq!(found, want, "{} {transform:?} price {price}", kernels.isa());
                // For a fixed input a higher price never costs more.
                assert!(found.iter().zip(&last).all(|(now, before)| now <= before));
                for row in 0..rows {
                    let mut one = [0];
                    let x = &x[row * cols..][..cols];
                    let args = gate_args(x, gate, &bias, transform, price, &mut one);
                    choose(&kernels, &pool, &mut scratch, args).unwrap();
                    assert_eq!(one[0], found[row]);
                }
                last = found;
            }
            assert_eq!(last, vec![1; rows]);
        }
    }
}

fn f32_rows(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A gate that has one gain per choice and adds up whole numbers, which no order rounds.
#[test]
fn gains_of_any_shape_are_exact_sums() {
    let pool = Pool::new(2);
    for kernels in all_kernels() {
        for (rows, cols) in [(1, 1), (3, 15), (2, 16), (5, 17), (40, 768)] {
            for count in 1..=9 {
                let whole = |i: usize| ((i * 7919) % 17) as f32 - 8.0;
                let x: Vec<f32> = (0..rows * cols).map(whole).collect();
                let gate: Vec<f32> = (0..count * cols).map(|i| whole(i + 5)).collect();
                let bias: Vec<f32> = (0..count).map(|k| k as f32 / 16.0).collect();
                let bytes = f32_rows(&gate);
                let args = |out| ChooseArgs {
                    x: &x,
                    gate: Packed::new(PackFormat::F32_ROW, count, cols, &bytes).unwrap(),
                    bias: &bias,
                    transform: GateTransform::Identity,
                    first: 0,
                    costs: &[0.0; 9][..count],
                    weight: 1.0,
                    price: 0.0,
                    out,
                };
                let mut found = vec![-1; rows];
                choose(&kernels, &pool, &mut AdaptiveScratch::default(), args(&mut found)).unwrap();
                for (row, found) in found.iter().enumerate() {
                    let gain = |k: &usize| -> f32 {
                        let x = &x[row * cols..][..cols];
                        let w = &gate[k * cols..][..cols];
                        x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() + bias[*k]
                    };
                    let best = (0..count).max_by(|a, b| gain(a).total_cmp(&gain(b))).unwrap();
                    assert_eq!(*found, best as i32, "{} {rows} x {cols}, {count}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn a_gate_that_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let panels = pack(PackFormat::linear(Values::F32), 8, &[0.5; 24]);
    let rows = f32_rows(&[0.5; 24]);
    let refuse = |format, bytes, change: &dyn Fn(&mut ChooseArgs<'_>)| {
        let mut out = [7; 2];
        let mut args = ChooseArgs {
            x: &[1.0; 16],
            gate: Packed::new(format, 3, 8, bytes).unwrap(),
            bias: &[0.0; 3],
            transform: GateTransform::Identity,
            first: 0,
            costs: &[0.0; 3],
            weight: 1.0,
            price: 0.0,
            out: &mut out,
        };
        change(&mut args);
        let kind = choose(&kernels, &pool, &mut AdaptiveScratch::default(), args);
        assert_eq!(out, [7; 2], "something was written");
        kind.unwrap_err().kind()
    };
    let in_panels = refuse(PackFormat::linear(Values::F32), &panels, &|_| {});
    assert_eq!(in_panels, ErrorKind::Format);
    let refuse = |change| refuse(PackFormat::F32_ROW, &rows, change);
    assert_eq!(refuse(&|a| a.x = &[1.0; 15]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.bias = &[0.0; 2]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.costs = &[0.0; 4]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.first = usize::MAX), ErrorKind::Range);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let mut case = Case::new(1, Values::Q4, 2, false);
    case.choice = vec![1, 3];
    case.residual = Some(vec![0.0; 2 * OUT]);
    let refuse = |change: &dyn Fn(&mut AdaptiveMlpArgs<'_>)| {
        let mut out = poison(2 * OUT);
        let mut args = case.args(&mut out);
        change(&mut args);
        let mut scratch = AdaptiveScratch::default();
        let kind = adaptive_mlp(&kernels, &pool, &mut scratch, args).unwrap_err().kind();
        assert!(out.iter().all(|v| v.is_nan()), "something was written");
        kind
    };
    assert_eq!(refuse(&|a| a.choice = &[0, 4]), ErrorKind::Range);
    assert_eq!(refuse(&|a| a.choice = &[-1, 0]), ErrorKind::Range);
    assert_eq!(refuse(&|a| a.choice = &[0]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.learners = 2), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.learners = 0), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.gated = true), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.b1 = Some(&[0.0; 5])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.residual = Some(&[0.0; 5])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.x = &a.x[1..]), ErrorKind::Shape);
    let channels = PackFormat { layout: Layout::Channels, ..PackFormat::linear(Values::Q4) };
    for format in [channels, PackFormat::F32_ROW] {
        let mut case = Case::new(1, Values::Q4, 2, false);
        (case.w1, case.w2) =
            (pack(format, COLS, &case.w1_values), pack(format, HIDDEN, &case.w2_values));
        case.format = format;
        let mut out = poison(2 * OUT);
        let refused =
            adaptive_mlp(&kernels, &pool, &mut AdaptiveScratch::default(), case.args(&mut out));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Format);
    }
}
