//! Every linear row of the kernel table against the reference, and its independence of rows and
//! threads.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    ErrorKind, Isa, KernelOp, Kernels, LinearArgs, LinearScratch, NormArgs, Packed, Pool,
    kernel_table, linear, norm, pack_rows,
};
use limbeck_plan::{Activation, NormKind, PackFormat, Values};
use proptest::prelude::*;

const FORMATS: [Values; 6] =
    [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m];
const ACTIVATIONS: [Activation; 7] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Tanh,
];

/// One linear with everything that it may have.
struct Case {
    format: PackFormat,
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    factors: Option<Vec<f32>>,
    w: Vec<u8>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    activation: Activation,
    gated: bool,
    precise: bool,
}

impl Case {
    fn new(seed: u64, values: Values, [m, n, k]: [usize; 3], gated: bool) -> Case {
        let mut random = Random::new(seed);
        let format = PackFormat::linear(values);
        let n_out = if gated { n / 2 } else { n };
        let mut w = Vec::new();
        pack_rows(format, k, &random.floats(n * k), &mut w).unwrap();
        Case {
            format,
            m,
            n,
            k,
            x: random.floats(m * k),
            w,
            bias: (random.below(2) == 0).then(|| random.floats(n)),
            residual: (random.below(2) == 0).then(|| random.floats(m * n_out)),
            activation: ACTIVATIONS[random.below(ACTIVATIONS.len())],
            gated,
            precise: random.below(3) == 0,
            factors: (random.below(4) == 0).then(|| random.floats(k)),
        }
    }

    fn results(&self) -> usize {
        self.m * if self.gated { self.n / 2 } else { self.n }
    }

    fn args<'a>(&'a self, out: &'a mut [f32]) -> LinearArgs<'a> {
        LinearArgs {
            x: &self.x,
            norm: None,
            factors: self.factors.as_deref(),
            w: Packed::new(self.format, self.n, self.k, &self.w).unwrap(),
            bias: self.bias.as_deref(),
            activation: self.activation,
            gated: self.gated,
            residual: self.residual.as_deref(),
            precise: self.precise,
            out,
        }
    }

    fn run(&self, kernels: &Kernels, pool: &Pool) -> Vec<f32> {
        let mut out = poison(self.results());
        linear(kernels, pool, &mut LinearScratch::default(), self.args(&mut out)).unwrap();
        out
    }

    fn reference(&self, products: Products) -> Vec<f32> {
        let mut out = poison(self.results());
        reference::linear(self.args(&mut out), products).unwrap();
        out
    }

    fn name(&self) -> String {
        let Case { format, m, n, k, activation, gated, precise, .. } = self;
        format!("{format} m {m} n {n} k {k} {activation:?} gated {gated} precise {precise}")
    }

    /// All of this case's checks for one set of kernels.
    fn check(&self, kernels: &Kernels, pools: &[Pool]) {
        let what = format!("{} {}", kernels.isa(), self.name());
        let got = self.run(kernels, &pools[0]);
        // A few results may all be small sums of large products.
        let tolerance = if got.len() < 16 { 1e-4 } else { 1e-5 };
        assert_close(&got, &self.reference(Products::Quantised), tolerance, &what);
        for pool in &pools[1..] {
            let threads = format!("{what}, {} threads", pool.threads());
            assert_same_bits(&self.run(kernels, pool), &got, &threads);
        }
        let width = self.results() / self.m;
        for row in 0..self.m {
            let mut out = poison(width);
            let mut one = self.args(&mut out);
            one.x = &self.x[row * self.k..][..self.k];
            one.residual = self.residual.as_ref().map(|r| &r[row * width..][..width]);
            linear(kernels, &pools[row % pools.len()], &mut LinearScratch::default(), one).unwrap();
            assert_same_bits(&out, &got[row * width..][..width], &format!("{what} row {row}"));
        }
    }
}

fn pools() -> Vec<Pool> {
    (1..=3).map(Pool::new).collect()
}

#[test]
fn every_row_matches_its_reference_and_depends_on_nothing_else() {
    let pools = pools();
    let mut seed = 0;
    for row in kernel_table().filter(|row| row.op() == KernelOp::Linear && row.available()) {
        let kernels = Kernels::with_isa(row.isa().name()).unwrap();
        let values = row.format().unwrap().values;
        for k in [1, 31, 32, 33, 576] {
            for n in [1, 7, 8, 9, 16, 17, 100] {
                for m in [1, 2, 3, 4, 5, 7, 8, 17, 64] {
                    seed += 1;
                    if sampled(seed) {
                        Case::new(seed, values, [m, n, k], n == 16 && m % 2 == 1)
                            .check(&kernels, &pools);
                    }
                }
            }
        }
    }
}

/// The bits of the AVX2 kernels, which every instruction set has whose sums are rounded once.
#[test]
fn instruction_sets_agree_on_every_machine() {
    const BITS: [u64; 6] = [
        0x3e80_661a_fde6_fb5e,
        0x07cd_7f5d_9394_fb33,
        0xfd9d_5c04_f7c6_4263,
        0xcdc0_811e_aa2a_e8cd,
        0xcd62_2af9_87f6_1af6,
        0x70fa_b760_a4cd_bc42,
    ];
    for kernels in all_kernels().iter().filter(|kernels| kernels.isa() != Isa::Portable) {
        let found = FORMATS.map(|values| {
            let mut case = Case::new(21, values, [5, 40, 100], false);
            (case.activation, case.factors) = (Activation::Silu, None);
            case.run(kernels, &Pool::new(1)).iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, v| {
                (hash ^ u64::from(v.to_bits())).wrapping_mul(0x100_0000_01b3)
            })
        });
        assert_eq!(found, BITS, "{} has {found:#x?}", kernels.isa());
    }
}

#[test]
fn large_products_over_several_tasks() {
    let pools = pools();
    for kernels in all_kernels() {
        for values in FORMATS {
            for [m, n, k] in [[150, 320, 288], [9, 1000, 96], [1, 2000, 320]] {
                Case::new(7, values, [m, n, k], n % 16 == 0 && m == 1).check(&kernels, &pools);
            }
        }
    }
}

#[test]
fn the_quantised_product_is_near_the_exact_one() {
    for kernels in all_kernels() {
        for values in FORMATS {
            let mut case = Case::new(3, values, [5, 48, 576], false);
            (case.activation, case.bias, case.residual) = (Activation::Identity, None, None);
            case.factors = None;
            for (precise, tolerance) in [(false, 1e-2), (true, 5e-5)] {
                case.precise = precise;
                let got = case.run(&kernels, &Pool::new(1));
                assert_close(&got, &case.reference(Products::Exact), tolerance, &case.name());
            }
        }
    }
}

#[test]
fn a_norm_in_front_has_the_bits_of_the_norm_op() {
    let pools = pools();
    for kernels in all_kernels() {
        for values in FORMATS {
            for (m, kind) in [(1, NormKind::Rms), (5, NormKind::Layer), (64, NormKind::Rms)] {
                let mut case = Case::new(11, values, [m, 40, 577], false);
                let mut random = Random::new(5);
                let (weight, bias) = (random.floats(577), random.floats(577));
                let args =
                    NormArgs { kind, weight: &weight, bias: (m == 5).then_some(&bias), eps: 1e-5 };
                for pool in &pools {
                    let mut out = poison(case.results());
                    let fused = LinearArgs { norm: Some(args), ..case.args(&mut out) };
                    linear(&kernels, pool, &mut LinearScratch::default(), fused).unwrap();
                    let x = case.x.clone();
                    norm(&kernels, pool, &x, &args, &mut case.x).unwrap();
                    let apart = case.run(&kernels, pool);
                    case.x = x;
                    assert_same_bits(&out, &apart, &case.name());
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_row() {
    let pool = Pool::new(1);
    for kernels in all_kernels() {
        for values in FORMATS {
            let mut case = Case::new(2, values, [9, 33, 70], false);
            case.activation = Activation::Silu;
            let clean = case.run(&kernels, &pool);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = Case::new(2, values, [9, 33, 70], false);
                case.activation = Activation::Silu;
                case.x[4 * 70 + 65] = bad;
                let got = case.run(&kernels, &pool);
                for row in (0..9).filter(|row| *row != 4) {
                    assert_same_bits(
                        &got[row * 33..][..33],
                        &clean[row * 33..][..33],
                        &case.name(),
                    );
                }
                assert!(got[4 * 33..5 * 33].iter().any(|v| !v.is_finite()), "{}", case.name());
            }
        }
    }
}

#[test]
fn zero_and_tiny_and_no_rows() {
    let pool = Pool::new(2);
    for kernels in all_kernels() {
        for values in FORMATS {
            let mut case = Case::new(4, values, [3, 20, 64], false);
            (case.activation, case.residual, case.factors) = (Activation::Identity, None, None);
            case.bias = Some(vec![0.5; 20]);
            for x in [0.0, 1e-41, -1e-38] {
                case.x.fill(x);
                let got = case.run(&kernels, &pool);
                assert_same_bits(&got, &[0.5; 60], &case.name());
            }
            (case.m, case.x) = (0, Vec::new());
            assert!(case.run(&kernels, &pool).is_empty());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let case = Case::new(1, Values::Q4, [2, 24, 32], false);
    let refuse = |change: &dyn Fn(&mut LinearArgs<'_>)| {
        let mut out = poison(48);
        let mut args = case.args(&mut out);
        change(&mut args);
        linear(&kernels, &pool, &mut LinearScratch::default(), args).unwrap_err().kind()
    };
    assert_eq!(refuse(&|a| a.x = &a.x[1..]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.gated = true), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.bias = Some(&[0.0; 23])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.residual = Some(&[0.0; 47])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.out = &mut []), ErrorKind::Shape);
    let norm = NormArgs { kind: NormKind::Rms, weight: &[1.0; 31], bias: None, eps: 0.0 };
    assert_eq!(refuse(&|a| a.norm = Some(norm)), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.factors = Some(&[1.0; 31])), ErrorKind::Shape);
    let row = Packed::new(PackFormat::F32_ROW, 24, 32, &[0; 24 * 32 * 4]).unwrap();
    assert_eq!(refuse(&|a| a.w = row), ErrorKind::Format);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_shapes(
        seed in any::<u64>(),
        values in prop::sample::select(&FORMATS[..]),
        m in 1usize..30,
        n in 1usize..70,
        k in 1usize..150,
        gated in any::<bool>(),
    ) {
        let n = if gated { n.next_multiple_of(16) } else { n };
        let pools = pools();
        for kernels in all_kernels().iter().filter(|_| sampled(seed)) {
            Case::new(seed, values, [m, n, k], gated).check(kernels, &pools);
        }
    }
}
