//! Weights in which channels lie together against the same values in quads or panels, with and without channels left
//! out, bit for bit where they are quantised; and against the reference.

mod common;

use common::{Random, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    ErrorKind, Isa, KernelOp, Kernels, LinearArgs, LinearScratch, NormArgs, Packed, Pool, Sparsity,
    kernel_table, linear, pack_rows, sparse_linear,
};
use limbeck_plan::{Activation, Layout, NormKind, PackFormat, Values};

struct Case {
    values: Values,
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    /// In quads or panels.
    whole: Vec<u8>,
    /// In each layout that has channels.
    by_channel: Vec<(Layout, Vec<u8>)>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    gated: bool,
    precise: bool,
    norm: Option<Vec<f32>>,
    weights: Vec<f32>,
    choice: Vec<i32>,
}

const THRESHOLDS: [f32; 4] = [0.7, 0.4, 0.1, 0.0];

/// Layouts of these values in which channels lie together.
fn layouts(values: Values) -> &'static [Layout] {
    match values {
        Values::F16 => &[Layout::Channels, Layout::Columns],
        _ => &[Layout::Channels],
    }
}

impl Case {
    fn new(seed: u64, values: Values, [m, n, k]: [usize; 3]) -> Case {
        let mut random = Random::new(seed);
        let w = random.floats(n * k);
        let packed = |layout| {
            let mut bytes = Vec::new();
            pack_rows(PackFormat { values, layout }, k, &w, &mut bytes).unwrap();
            bytes
        };
        let gated = n % 16 == 0 && random.below(2) == 0;
        let n_out = if gated { n / 2 } else { n };
        let mut weights = random.floats(k);
        weights.iter_mut().for_each(|w| *w = 1.0 + 0.5 * *w);
        Case {
            values,
            m,
            n,
            k,
            x: random.floats(m * k),
            whole: packed(PackFormat::linear(values).layout),
            by_channel: layouts(values).iter().map(|layout| (*layout, packed(*layout))).collect(),
            bias: (random.below(2) == 0).then(|| random.floats(n)),
            residual: (random.below(2) == 0).then(|| random.floats(m * n_out)),
            gated,
            precise: random.below(3) == 0,
            norm: (random.below(3) == 0).then(|| random.floats(k)),
            weights,
            choice: (0..m).map(|_| random.below(THRESHOLDS.len()) as i32).collect(),
        }
    }

    /// With the weight in a layout that has channels, or else as other linears have it.
    fn args<'a>(&'a self, layout: Option<Layout>, out: &'a mut [f32]) -> LinearArgs<'a> {
        let found = |layout| self.by_channel.iter().find(|(l, _)| *l == layout).unwrap();
        let (bytes, format) = match layout {
            None => (&self.whole, PackFormat::linear(self.values)),
            Some(layout) => (&found(layout).1, PackFormat { values: self.values, layout }),
        };
        LinearArgs {
            x: &self.x,
            norm: self.norm.as_ref().map(|weight| NormArgs {
                kind: NormKind::Rms,
                weight,
                bias: None,
                eps: 1e-5,
            }),
            factors: None,
            w: Packed::new(format, self.n, self.k, bytes).unwrap(),
            bias: self.bias.as_deref(),
            activation: Activation::Silu,
            gated: self.gated,
            residual: self.residual.as_deref(),
            precise: self.precise,
            out,
        }
    }

    fn sparsity(&self) -> Sparsity<'_> {
        Sparsity { weights: &self.weights, thresholds: &THRESHOLDS, choice: &self.choice }
    }

    fn results(&self) -> usize {
        self.m * if self.gated { self.n / 2 } else { self.n }
    }

    fn name(&self) -> String {
        let Case { values, m, n, k, gated, precise, norm, .. } = self;
        let norm = norm.is_some();
        format!("{values:?} m {m} n {n} k {k} gated {gated} precise {precise} norm {norm}")
    }

    fn check(&self, kernels: &Kernels, pools: &[Pool]) {
        let what = format!("{} {}", kernels.isa(), self.name());
        let mut want = poison(self.results());
        let args = self.args(None, &mut want);
        let kept = reference::sparse_linear(args, Products::Quantised, &self.sparsity()).unwrap();
        // Sums in f16 are over halves: they have bits of their own, the same in all layouts.
        let bits_of = (!self.values.is_quantised()).then_some(Layout::Columns);
        let mut scratch = LinearScratch::default();
        let (mut dense, mut sparse) = (poison(self.results()), poison(self.results()));
        linear(kernels, &pools[0], &mut scratch, self.args(bits_of, &mut dense)).unwrap();
        let args = self.args(bits_of, &mut sparse);
        sparse_linear(kernels, &pools[0], &mut scratch, args, &self.sparsity()).unwrap();
        let tolerance = if want.len() < 16 { 1e-4 } else { 2e-5 };
        assert_close(&sparse, &want, tolerance, &what);
        let mut whole = poison(self.results());
        linear(kernels, &pools[0], &mut scratch, self.args(None, &mut whole)).unwrap();
        assert_close(&dense, &whole, tolerance, &what);
        for (pool, (layout, bytes)) in
            pools.iter().flat_map(|p| self.by_channel.iter().map(move |b| (p, b)))
        {
            let what = format!("{what} {layout:?} on {} threads", pool.threads());
            let mut out = poison(self.results());
            linear(kernels, pool, &mut scratch, self.args(Some(*layout), &mut out)).unwrap();
            assert_same_bits(&out, &dense, &format!("{what} dense"));
            let mut out = poison(self.results());
            let args = self.args(Some(*layout), &mut out);
            let read = sparse_linear(kernels, pool, &mut scratch, args, &self.sparsity()).unwrap();
            assert_same_bits(&out, &sparse, &format!("{what} sparse"));
            assert_eq!(read.channels, kept.channels, "{what}");
            assert!(read.bytes <= bytes.len() as u64, "{what}");
        }
        self.check_rows(kernels, &pools[self.m % pools.len()], &sparse, &what);
    }

    fn check_rows(&self, kernels: &Kernels, pool: &Pool, want: &[f32], what: &str) {
        let width = self.results() / self.m;
        for row in 0..self.m {
            let mut out = poison(width);
            let mut one = self.args(layouts(self.values).last().copied(), &mut out);
            one.x = &self.x[row * self.k..][..self.k];
            one.residual = self.residual.as_ref().map(|r| &r[row * width..][..width]);
            let sparsity = Sparsity { choice: &self.choice[row..=row], ..self.sparsity() };
            let mut scratch = LinearScratch::default();
            sparse_linear(kernels, pool, &mut scratch, one, &sparsity).unwrap();
            assert_same_bits(&out, &want[row * width..][..width], &format!("{what} row {row}"));
        }
    }
}

fn pools() -> Vec<Pool> {
    [1, 2, 3, 4, 7].map(Pool::new).into()
}

#[test]
fn every_row_agrees_with_other_layouts() {
    let pools = pools();
    let mut seed = 0;
    for row in kernel_table().filter(|row| row.op() == KernelOp::Channels && row.available()) {
        let kernels = Kernels::with_isa(row.isa().name()).unwrap();
        let format = row.format().unwrap();
        assert_eq!(Some(&format.layout), layouts(format.values).last());
        for k in [1, 31, 33, 64, 288] {
            for n in [1, 16, 33, 100, 160, 320, 576, 1030, 4200] {
                for m in [1, 2, 4, 5, 17] {
                    if n < 500 || k < 64 || m < 5 {
                        seed += 1;
                        if sampled(seed) {
                            Case::new(seed, format.values, [m, n, k]).check(&kernels, &pools);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_are_kept() {
    for row in kernel_table().filter(|row| row.op() == KernelOp::Channels && row.available()) {
        let kernels = Kernels::with_isa(row.isa().name()).unwrap();
        let mut case = Case::new(3, row.format().unwrap().values, [2, 64, 96]);
        case.norm = None;
        for bad in [f32::NAN, f32::INFINITY] {
            case.x[40] = bad;
            let mut out = poison(case.results());
            let args = case.args(Some(Layout::Channels), &mut out);
            let mut scratch = LinearScratch::default();
            sparse_linear(&kernels, &Pool::new(1), &mut scratch, args, &case.sparsity()).unwrap();
            let (first, second) = out.split_at(case.results() / 2);
            assert!(first.iter().any(|v| !v.is_finite()), "{}", case.name());
            assert!(second.iter().all(|v| v.is_finite()), "{}", case.name());
        }
    }
}

#[test]
fn f16_is_summed_in_two_halves() {
    let pools = pools();
    for row in kernel_table().filter(|row| row.op() == KernelOp::Channels && row.available()) {
        if row.format().unwrap().values != Values::F16 {
            continue;
        }
        let kernels = Kernels::with_isa(row.isa().name()).unwrap();
        // Blocks of 32 columns, one more in the first half where they are odd.
        let shapes = [(1, 1), (32, 32), (40, 32), (96, 64), (130, 96), (576, 288), (2048, 1024)];
        for (k, middle) in shapes {
            for (m, n) in [(1, 100), (3, 100), (7, 100), (1, 33), (2, 33)] {
                let mut case = Case::new(9, Values::F16, [m, n, k]);
                (case.norm, case.bias, case.residual) = (None, None, None);
                let w: Vec<f32> = (0..n)
                    .flat_map(|r| {
                        let mut row = vec![0.0; k];
                        case.args(None, &mut []).w.unpack_row(r, &mut row).unwrap();
                        row
                    })
                    .collect();
                let fused = kernels.isa() != Isa::Portable;
                let chain = |x: &[f32], w: &[f32]| {
                    x.iter().zip(w).fold(0.0f32, |acc, (x, w)| match fused {
                        true => w.mul_add(*x, acc),
                        false => acc + w * x,
                    })
                };
                let product = |x: &[f32], w: &[f32]| {
                    chain(&x[..middle], &w[..middle]) + chain(&x[middle..], &w[middle..])
                };
                let want: Vec<f32> = case
                    .x
                    .chunks_exact(k)
                    .flat_map(|x| w.chunks_exact(k).map(move |w| product(x, w)))
                    .collect();
                for pool in &pools {
                    let mut out = poison(want.len());
                    let args = case.args(Some(Layout::Columns), &mut out);
                    let args = LinearArgs { activation: Activation::Identity, ..args };
                    linear(&kernels, pool, &mut LinearScratch::default(), args).unwrap();
                    assert_same_bits(&out, &want, &format!("{} m {m} k {k}", kernels.isa()));
                }
            }
        }
    }
}

#[test]
fn fewer_channels_are_fewer_bytes() {
    let kernels = Kernels::detect();
    let mut case = Case::new(5, Values::Q4m, [1, 576, 1536]);
    (case.norm, case.precise) = (None, false);
    let mut bytes = THRESHOLDS.map(|_| 0);
    for (k, bytes) in bytes.iter_mut().enumerate() {
        case.choice = vec![k as i32];
        let mut out = poison(case.results());
        let args = case.args(Some(Layout::Channels), &mut out);
        let mut scratch = LinearScratch::default();
        let read = sparse_linear(&kernels, &Pool::new(1), &mut scratch, args, &case.sparsity());
        *bytes = read.unwrap().bytes;
    }
    assert!(bytes.is_sorted_by(|a, b| a < b), "{bytes:?}");
    assert!(bytes[0] < bytes[3] * 6 / 10, "{bytes:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let case = Case::new(1, Values::Q4, [2, 32, 32]);
    let refuse = |change: &dyn Fn(&mut Sparsity<'_>)| {
        let mut out = poison(case.results());
        let args = case.args(Some(Layout::Channels), &mut out);
        let mut sparsity = case.sparsity();
        change(&mut sparsity);
        let mut scratch = LinearScratch::default();
        sparse_linear(&kernels, &pool, &mut scratch, args, &sparsity).unwrap_err().kind()
    };
    assert_eq!(refuse(&|s| s.weights = &[1.0; 31]), ErrorKind::Shape);
    assert_eq!(refuse(&|s| s.choice = &[0]), ErrorKind::Shape);
    assert_eq!(refuse(&|s| s.choice = &[0, 4]), ErrorKind::Range);
    assert_eq!(refuse(&|s| s.choice = &[0, -1]), ErrorKind::Range);
    assert_eq!(refuse(&|s| s.thresholds = &[]), ErrorKind::Range);
}
