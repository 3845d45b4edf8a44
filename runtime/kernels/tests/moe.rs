//! Mixtures of experts and weighted sums against the reference, and their independence of rows and
//! threads.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    ErrorKind, Kernels, LinearArgs, LinearScratch, MixArgs, MoeMlpArgs, MoeScratch, Packed, Pool,
    linear, mix, moe_mlp, pack_rows,
};
use limbeck_plan::{Activation, Capacity, ExpertWeights, Mix, MixRule, MoeMlp, PackFormat, Values};

const FORMATS: [Values; 5] = [Values::F32, Values::F16, Values::Q8, Values::Q4, Values::Q4m];
const COLS: usize = 70;
const HIDDEN: usize = 40;
const OUT: usize = 48;

struct Case {
    params: MoeMlp,
    format: PackFormat,
    x: Vec<f32>,
    logits: Vec<f32>,
    w1: Vec<u8>,
    w2: Vec<u8>,
    residual: Option<Vec<f32>>,
    price: f32,
}

fn pack(format: PackFormat, cols: usize, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack_rows(format, cols, values, &mut bytes).unwrap();
    bytes
}

impl Case {
    fn new(seed: u64, values: Values, rows: usize) -> Case {
        let mut random = Random::new(seed);
        let gated = random.below(2) == 0;
        let experts = [1, 2, 4, 8][random.below(4)];
        let params = MoeMlp {
            site: 0,
            experts,
            top_k: 1 + random.below(experts.min(3)),
            activation: if gated { Activation::Silu } else { Activation::Gelu },
            gated,
            weights: match random.below(2) {
                0 => ExpertWeights::Renormalised,
                _ => ExpertWeights::Probabilities,
            },
            capacity: None,
            residual: random.below(2) == 0,
        };
        let format = PackFormat::linear(values);
        let hidden = if gated { HIDDEN } else { 2 * HIDDEN };
        Case {
            format,
            x: random.floats(rows * COLS),
            logits: random.floats(rows * experts).iter().map(|v| v * 3.0).collect(),
            w1: pack(format, COLS, &random.floats(experts * 2 * HIDDEN * COLS)),
            w2: pack(format, hidden, &random.floats(experts * OUT * hidden)),
            residual: params.residual.then(|| random.floats(rows * OUT)),
            price: [0.0, 0.5, 1e9][random.below(3)],
            params,
        }
    }

    fn tokens(&self) -> usize {
        self.logits.len() / self.params.experts
    }

    fn w1(&self) -> Packed<'_> {
        Packed::new(self.format, self.params.experts * 2 * HIDDEN, COLS, &self.w1).unwrap()
    }

    fn w2(&self) -> Packed<'_> {
        let hidden = if self.params.gated { HIDDEN } else { 2 * HIDDEN };
        Packed::new(self.format, self.params.experts * OUT, hidden, &self.w2).unwrap()
    }

    fn args<'a>(&'a self, choice: &'a mut [i32], out: &'a mut [f32]) -> MoeMlpArgs<'a> {
        MoeMlpArgs {
            params: &self.params,
            x: &self.x,
            logits: &self.logits,
            w1: self.w1(),
            w2: self.w2(),
            residual: self.residual.as_deref(),
            weight: 1.5,
            price: self.price,
            forced: None,
            choice,
            out,
        }
    }

    fn run(&self, kernels: &Kernels, pool: &Pool) -> (Vec<f32>, Vec<i32>, usize) {
        let (mut out, mut choice) = (poison(self.tokens() * OUT), vec![-7; self.tokens()]);
        let args = self.args(&mut choice, &mut out);
        let used = moe_mlp(kernels, pool, &mut MoeScratch::default(), args).unwrap();
        (out, choice, used)
    }

    /// Only these tokens, in this order.
    fn rows(&self, rows: &[usize]) -> Case {
        let pick = |values: &[f32], cols: usize| {
            rows.iter().flat_map(|r| values[r * cols..][..cols].to_vec()).collect()
        };
        Case {
            params: self.params.clone(),
            x: pick(&self.x, COLS),
            logits: pick(&self.logits, self.params.experts),
            residual: self.residual.as_ref().map(|r| pick(r, OUT)),
            w1: self.w1.clone(),
            w2: self.w2.clone(),
            ..*self
        }
    }

    fn name(&self) -> String {
        format!("{} {:?} price {} tokens {}", self.format, self.params, self.price, self.tokens())
    }
}

fn each(mut check: impl FnMut(&Case, &Kernels, u64)) {
    let mut seed = 0;
    for kernels in all_kernels() {
        for values in FORMATS {
            for rows in [1, 2, 3, 7, 16, 33] {
                seed += 1;
                if sampled(seed) {
                    check(&Case::new(seed, values, rows), &kernels, seed);
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
        let (got, choice, used) = case.run(kernels, &pools[0]);
        let (mut want, mut want_choice) = (poison(got.len()), vec![-7; choice.len()]);
        let args = case.args(&mut want_choice, &mut want);
        assert_eq!(reference::moe_mlp(args, Products::Quantised).unwrap(), used, "{what}");
        assert_eq!(choice, want_choice, "{what}");
        // A hidden value at the edge of an 8-bit step may fall to either side of it.
        let tolerance = if case.format.values.is_quantised() { 5e-3 } else { 1e-5 };
        assert_close(&got, &want, tolerance, &what);
        assert_same_bits(&case.run(kernels, &pools[1]).0, &got, &what);
        let mut random = Random::new(seed);
        let mut order: Vec<usize> = (0..choice.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        let shuffled = case.rows(&order).run(kernels, &pools[1]);
        for (at, row) in order.into_iter().enumerate() {
            let want = &got[row * OUT..][..OUT];
            assert_same_bits(&shuffled.0[at * OUT..][..OUT], want, &what);
            let alone = case.rows(&[row]).run(kernels, &pools[0]);
            assert_same_bits(&alone.0, want, &what);
            assert_eq!((shuffled.1[at], alone.1[0]), (choice[row], choice[row]), "{what}");
            // A token alone reads the experts that it keeps.
            assert_eq!(alone.2, choice[row] as usize, "{what}");
        }
    });
}

/// An expert packed on its own is a dense MLP with the same bits.
#[test]
fn a_token_of_one_expert_has_the_bits_of_its_dense_mlp() {
    let pool = Pool::new(2);
    each(|case, kernels, _| {
        let experts = case.params.experts;
        let params = MoeMlp { top_k: 1, residual: false, ..case.params.clone() };
        let weights = ExpertWeights::Renormalised;
        let params = MoeMlp { weights, ..params };
        let case = Case { params, residual: None, ..case.rows(&[0]) };
        let (got, ..) = case.run(kernels, &pool);
        let mut best = 0;
        (1..experts).for_each(|e| best = if case.logits[e] > case.logits[best] { e } else { best });
        let dense = |x: &[f32], w: Packed<'_>, activation, gated, n: usize| {
            let mut out = poison(n);
            let args = LinearArgs {
                x,
                norm: None,
                factors: None,
                w,
                bias: None,
                activation,
                gated,
                residual: None,
                precise: false,
                out: &mut out,
            };
            linear(kernels, &pool, &mut LinearScratch::default(), args).unwrap();
            out
        };
        let w1 = case.w1().row_range(best * 2 * HIDDEN..(best + 1) * 2 * HIDDEN).unwrap();
        let w2 = case.w2().row_range(best * OUT..(best + 1) * OUT).unwrap();
        let MoeMlp { activation, gated, .. } = case.params;
        let hidden = dense(&case.x, w1, activation, gated, w2.cols());
        let want = dense(&hidden, w2, Activation::Identity, false, OUT);
        assert_same_bits(&got, &want, &case.name());
    });
}

#[test]
fn a_capacity_is_that_of_the_reference() {
    let pool = Pool::new(2);
    let kernels = Kernels::detect();
    for seed in 1..60 {
        let mut case = Case::new(seed, Values::F32, 1 + seed as usize % 29);
        let factor = [0.3, 0.5, 1.0, 2.0][seed as usize % 4];
        case.params.capacity = Some(Capacity { factor, min: seed as usize % 2 });
        let (got, choice, used) = case.run(&kernels, &pool);
        let (mut want, mut want_choice) = (poison(got.len()), vec![-7; choice.len()]);
        let args = case.args(&mut want_choice, &mut want);
        assert_eq!(reference::moe_mlp(args, Products::Quantised).unwrap(), used);
        assert_eq!(choice, want_choice);
        assert_close(&got, &want, 1e-5, &case.name());
    }
}

#[test]
fn routers_that_are_not_numbers_give_nan_and_leave_other_tokens_alone() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let mut case = Case::new(3, Values::Q8, 3);
    case.params = MoeMlp { experts: 4, top_k: 2, ..case.params };
    let mut random = Random::new(4);
    let hidden = if case.params.gated { HIDDEN } else { 2 * HIDDEN };
    case.w1 = pack(case.format, COLS, &random.floats(4 * 2 * HIDDEN * COLS));
    case.w2 = pack(case.format, hidden, &random.floats(4 * OUT * hidden));
    case.price = 1e9;
    for bad in [f32::NAN, f32::INFINITY] {
        case.logits = vec![0.0; 12];
        case.logits[5] = bad;
        let (got, choice, _) = case.run(&kernels, &pool);
        assert_eq!(choice, [1, 2, 1]);
        let nan: Vec<bool> = got.iter().map(|v| v.is_nan()).collect();
        assert!((0..3 * OUT).all(|i| nan[i] == (i / OUT == 1)));
    }
}

#[test]
fn forced_ranks_are_kept_and_what_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let suits = |case: &Case| case.params.top_k >= 2 && case.params.residual;
    let mut cases = (1..).map(|seed| Case::new(seed, Values::Q4, 3));
    let case = cases.find(suits).unwrap();
    let run = |params: &MoeMlp, forced: &[i32], change: &dyn Fn(&mut MoeMlpArgs<'_>)| {
        let (mut out, mut choice) = (poison(case.tokens() * OUT), vec![-7; case.tokens()]);
        let args = case.args(&mut choice, &mut out);
        let mut args = MoeMlpArgs { params, forced: Some(forced), price: 1e9, ..args };
        change(&mut args);
        let found = moe_mlp(&kernels, &pool, &mut MoeScratch::default(), args);
        (found.map_err(|e| e.kind()), choice)
    };
    let (found, choice) = run(&case.params, &[2, 1, -1], &|_| {});
    assert!(found.is_ok() && choice == [2, 1, 1]);
    let refuse = |params: &MoeMlp, forced: &[i32], change: &dyn Fn(&mut MoeMlpArgs<'_>)| {
        let (found, choice) = run(params, forced, change);
        assert!(choice.iter().all(|k| *k == -7), "something was written");
        found.unwrap_err()
    };
    for params in [
        MoeMlp { top_k: 99, ..case.params.clone() },
        MoeMlp { top_k: 0, ..case.params.clone() },
        MoeMlp { gated: !case.params.gated, ..case.params.clone() },
        MoeMlp { experts: 0, ..case.params.clone() },
    ] {
        assert_eq!(refuse(&params, &[1; 3], &|_| {}), ErrorKind::Shape, "{params:?}");
    }
    let changed = |change: &dyn Fn(&mut MoeMlpArgs<'_>)| refuse(&case.params, &[1; 3], change);
    assert_eq!(changed(&|a| a.x = &a.x[1..]), ErrorKind::Shape);
    assert_eq!(changed(&|a| a.logits = &a.logits[1..]), ErrorKind::Shape);
    assert_eq!(changed(&|a| a.residual = Some(&[0.0; 5])), ErrorKind::Shape);
    assert_eq!(changed(&|a| a.forced = Some(&[1])), ErrorKind::Shape);
    assert_eq!(changed(&|a| a.forced = Some(&[1, 99, 1])), ErrorKind::Range);
    assert_eq!(changed(&|a| a.forced = Some(&[1, 0, 1])), ErrorKind::Range);
}

fn args<'a>(
    params: &'a Mix,
    logits: &'a [f32],
    parts: &'a [&'a [f32]],
    residual: &'a [f32],
    out: &'a mut [f32],
) -> MixArgs<'a> {
    MixArgs { params, logits, parts, residual: Some(residual), out }
}

#[test]
fn a_weighted_sum_matches_the_reference() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut random = Random::new(9);
    for (rows, cols) in [(1, 5), (7, 33), (40, 512)] {
        for (parts, rule) in [(1, MixRule::Sigmoid), (2, MixRule::Softmax), (3, MixRule::Sigmoid)] {
            let params = Mix { parts, rule, residual: true };
            let logits = random.floats(rows * parts);
            let values: Vec<Vec<f32>> = (0..parts).map(|_| random.floats(rows * cols)).collect();
            let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let residual = random.floats(rows * cols);
            let [mut one, mut three, mut want] = [(); 3].map(|()| poison(rows * cols));
            mix(&pools[0], args(&params, &logits, &values, &residual, &mut one)).unwrap();
            mix(&pools[1], args(&params, &logits, &values, &residual, &mut three)).unwrap();
            reference::mix(args(&params, &logits, &values, &residual, &mut want)).unwrap();
            assert_close(&one, &want, 1e-6, &format!("{params:?}"));
            assert_same_bits(&one, &three, &format!("{params:?}"));
            let refuse = |change: &dyn Fn(&mut MixArgs<'_>)| {
                let mut out = poison(rows * cols);
                let mut args = args(&params, &logits, &values, &residual, &mut out);
                change(&mut args);
                mix(&pools[0], args).unwrap_err().kind()
            };
            assert_eq!(refuse(&|a| a.parts = &a.parts[1..]), ErrorKind::Shape);
            assert_eq!(refuse(&|a| a.residual = Some(&[0.0])), ErrorKind::Shape);
            assert_eq!(refuse(&|a| a.logits = &[]), ErrorKind::Shape);
        }
    }
}
