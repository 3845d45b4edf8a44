//! Convolutions and the largest of windows against their references: every linear row of the kernel
//! table on a table of windows, and the independence of threads and batch.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::reference::{self, Products};
use limbeck_kernels::{
    Conv2dArgs, ConvScratch, DepthwiseConv2dArgs, ErrorKind, KernelOp, Kernels, LinearArgs,
    LinearScratch, Packed, Pool, conv2d, depthwise_conv2d, kernel_table, linear, max_pool2d,
    pack_rows, pixels,
};
use limbeck_plan::{
    Activation, Conv2d, DepthwiseConv2d, MaxPool2d, PackFormat, Pixels, Values, Window,
};
use proptest::prelude::*;

const FORMATS: [Values; 5] = [Values::F32, Values::F16, Values::Q8, Values::Q4, Values::Q4m];

fn window(image: [usize; 2], kernel: [usize; 2], stride: [usize; 2]) -> Window {
    let padding = [kernel[0] / 2, kernel[1] / 2, kernel[0] / 2, kernel[1] / 2];
    Window { image, kernel, stride, padding, dilation: [1, 1] }
}

/// Windows, channels, groups and outputs.
fn shapes() -> Vec<(Window, usize, usize, usize)> {
    let square = |side, kernel, stride| window([side; 2], [kernel; 2], [stride; 2]);
    vec![
        (square(9, 3, 1), 3, 1, 20),
        (square(8, 3, 1), 32, 1, 16),
        (square(13, 3, 2), 64, 1, 40),
        (square(7, 1, 1), 33, 1, 17),
        (square(7, 1, 2), 32, 1, 48),
        (square(23, 7, 2), 3, 1, 8),
        (window([1, 40], [1, 5], [1, 2]), 4, 1, 9),
        (window([6, 5], [6, 5], [1, 1]), 8, 1, 33),
        // A last column and row that no window reaches, and more padding at one end.
        (Window { padding: [0, 1, 2, 0], ..window([8, 10], [3, 2], [3, 4]) }, 5, 1, 7),
        (Window { dilation: [2, 3], ..window([11, 12], [3, 3], [1, 1]) }, 32, 1, 24),
        // Windows that see nothing of the image.
        (Window { padding: [5; 4], ..window([3, 4], [2, 2], [2, 1]) }, 6, 1, 16),
        // Transformed: whole and cut squares, whole and cut units, padding of all kinds.
        (square(16, 3, 1), 16, 1, 20),
        (square(17, 3, 1), 48, 1, 32),
        (Window { padding: [0, 1, 2, 0], ..window([19, 21], [3, 3], [1, 1]) }, 32, 1, 1),
        (Window { padding: [3, 4, 0, 2], ..window([3, 90], [3, 3], [1, 1]) }, 16, 1, 33),
        // Groups of whole units and blocks, of whole units alone, and of parts of both.
        (square(6, 3, 1), 64, 2, 32),
        (square(6, 3, 2), 12, 3, 48),
        (square(5, 3, 1), 16, 4, 24),
        (square(5, 1, 1), 64, 2, 10),
        (square(5, 3, 1), 6, 6, 6),
    ]
}

struct Case {
    params: Conv2d,
    format: PackFormat,
    images: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    w: Vec<u8>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
}

impl Case {
    fn new(
        seed: u64,
        values: Values,
        images: usize,
        (window, channels, groups, n): (Window, usize, usize, usize),
    ) -> Case {
        let mut random = Random::new(seed);
        let [height, width] = window.image;
        let out = window.out().unwrap();
        let k = window.taps() * channels / groups;
        let format = PackFormat::linear(values);
        let mut w = Vec::new();
        pack_rows(format, k, &random.floats(n * k), &mut w).unwrap();
        let bias = (random.below(3) > 0).then(|| random.floats(n));
        let rows = images * out[0] * out[1];
        let residual = (random.below(2) == 0).then(|| random.floats(rows * n));
        let activations = [Activation::Identity, Activation::Relu, Activation::Silu];
        let params = Conv2d {
            window,
            groups,
            bias: bias.is_some(),
            activation: activations[random.below(3)],
            residual: residual.is_some(),
        };
        let x = random.floats(images * height * width * channels);
        Case { params, format, images, n, k, x, w, bias, residual }
    }

    fn results(&self) -> usize {
        let [height, width] = self.params.window.out().unwrap();
        self.images * height * width * self.n
    }

    fn args<'a>(&'a self, out: &'a mut [f32]) -> Conv2dArgs<'a> {
        Conv2dArgs {
            params: &self.params,
            x: &self.x,
            w: Packed::new(self.format, self.n, self.k, &self.w).unwrap(),
            bias: self.bias.as_deref(),
            residual: self.residual.as_deref(),
            out,
        }
    }

    fn run(&self, kernels: &Kernels, pool: &Pool) -> Vec<f32> {
        let mut out = poison(self.results());
        conv2d(kernels, pool, &mut ConvScratch::default(), self.args(&mut out)).unwrap();
        out
    }

    fn reference(&self, products: Products) -> Vec<f32> {
        let mut out = poison(self.results());
        reference::conv2d(self.args(&mut out), products).unwrap();
        out
    }

    fn check(&self, kernels: &Kernels, pools: &[Pool]) {
        let what = format!("{} {} {:?}", kernels.isa(), self.format, self.params);
        let got = self.run(kernels, &pools[0]);
        let tolerance = if got.len() < 16 { 1e-4 } else { 1e-5 };
        assert_close(&got, &self.reference(Products::Quantised), tolerance, &what);
        for pool in &pools[1..] {
            assert_same_bits(&self.run(kernels, pool), &got, &what);
        }
        let (image, result) = (self.x.len() / self.images, got.len() / self.images);
        let mut scratch = ConvScratch::default();
        for i in 0..self.images {
            let mut out = poison(result);
            let mut one = self.args(&mut out);
            one.x = &self.x[i * image..][..image];
            one.residual = self.residual.as_ref().map(|r| &r[i * result..][..result]);
            conv2d(kernels, &pools[i % pools.len()], &mut scratch, one).unwrap();
            assert_same_bits(&out, &got[i * result..][..result], &format!("{what} image {i}"));
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
        if values == Values::Q8w {
            // Convolutions take parts of a row, which are whole small blocks.
            continue;
        }
        for shape in shapes() {
            for images in [1, 3] {
                seed += 1;
                if sampled(seed) {
                    Case::new(seed, values, images, shape.clone()).check(&kernels, &pools);
                }
            }
        }
    }
}

/// Several tiles for each thread, and units shared by threads where there is one tile.
#[test]
fn large_images_and_large_weights_over_several_tasks() {
    let pools = pools();
    for kernels in all_kernels().iter().filter(|_| sampled(0)) {
        for values in [Values::F32, Values::Q8] {
            for (side, channels, n) in [(40, 32, 32), (3, 128, 200), (4, 40, 129)] {
                let shape = (window([side; 2], [3, 3], [1, 1]), channels, 1, n);
                Case::new(5, values, 2, shape).check(kernels, &pools);
            }
        }
    }
}

#[test]
fn a_convolution_of_one_pixel_is_a_linear() {
    let pool = Pool::new(2);
    for kernels in all_kernels() {
        for values in FORMATS {
            let shape = (window([5, 7], [1, 1], [1, 1]), 40, 1, 24);
            let mut case = Case::new(9, values, 2, shape);
            (case.residual, case.params.residual) = (None, false);
            let got = case.run(&kernels, &pool);
            let mut out = poison(case.results());
            let args = LinearArgs {
                x: &case.x,
                norm: None,
                factors: None,
                w: Packed::new(case.format, case.n, case.k, &case.w).unwrap(),
                bias: case.bias.as_deref(),
                activation: case.params.activation,
                gated: false,
                residual: None,
                precise: false,
                out: &mut out,
            };
            linear(&kernels, &pool, &mut LinearScratch::default(), args).unwrap();
            assert_same_bits(&got, &out, &format!("{} {values:?}", kernels.isa()));
        }
    }
}

#[test]
fn the_quantised_convolution_is_near_the_exact_one() {
    for kernels in all_kernels() {
        for (values, channels) in [(Values::Q8, 64), (Values::Q8, 24), (Values::Q4, 64)] {
            let shape = (window([8, 8], [3, 3], [1, 1]), channels, 1, 48);
            let mut case = Case::new(3, values, 1, shape);
            (case.residual, case.params.residual) = (None, false);
            let got = case.run(&kernels, &Pool::new(1));
            assert_close(&got, &case.reference(Products::Exact), 1e-2, &case.format);
        }
    }
}

/// A value that is not finite reaches the windows that see it and no other.
#[test]
fn values_that_are_not_finite_stay_in_their_windows() {
    let pool = Pool::new(1);
    for kernels in all_kernels() {
        for values in FORMATS {
            for channels in [5, 32] {
                let shape = (window([6, 6], [3, 3], [1, 1]), channels, 1, 20);
                let mut case = Case::new(2, values, 1, shape);
                case.params.activation = Activation::Identity;
                let clean = case.run(&kernels, &pool);
                case.x[(6 + 1) * channels] = f32::NAN;
                let got = case.run(&kernels, &pool);
                for pixel in 0..36 {
                    let part = |of: &[f32]| of[pixel * 20..][..20].to_vec();
                    if pixel / 6 <= 2 && pixel % 6 <= 2 {
                        assert!(part(&got).iter().all(|v| v.is_nan()), "{values:?} {pixel}");
                    } else {
                        assert_same_bits(&part(&got), &part(&clean), &format!("{values:?}"));
                    }
                }
            }
        }
    }
}

/// Of those whose windows see the pixel, and of the squares that these lie in.
#[test]
fn values_that_are_not_finite_stay_in_their_squares() {
    let (pool, side, n) = (Pool::new(1), 18, 20);
    for kernels in all_kernels() {
        for values in [Values::F32, Values::F16] {
            let shape = (window([side; 2], [3, 3], [1, 1]), 32, 1, n);
            let mut case = Case::new(2, values, 1, shape);
            case.params.activation = Activation::Identity;
            let clean = case.run(&kernels, &pool);
            case.x[(5 * side + 7) * 32] = f32::NAN;
            let got = case.run(&kernels, &pool);
            for pixel in 0..side * side {
                let part = |of: &[f32]| of[pixel * n..][..n].to_vec();
                let (y, x) = (pixel / side, pixel % side);
                if (4..=6).contains(&y) && (6..=8).contains(&x) {
                    assert!(part(&got).iter().all(|v| v.is_nan()), "{values:?} {pixel}");
                } else if !((4..=7).contains(&y) && (6..=9).contains(&x)) {
                    assert_same_bits(&part(&got), &part(&clean), &format!("{values:?}"));
                }
            }
        }
    }
}

#[test]
fn each_channel_with_its_own_kernel_matches_the_reference() {
    let pools = pools();
    for row in kernel_table().filter(|row| row.op() == KernelOp::Depthwise && row.available()) {
        let kernels = Kernels::with_isa(row.isa().name()).unwrap();
        for (window, ..) in shapes() {
            for channels in [1, 8, 19, 144] {
                let mut random = Random::new(channels as u64);
                let [height, width] = window.image;
                let out = window.out().unwrap();
                let params = DepthwiseConv2d {
                    window: window.clone(),
                    bias: channels > 1,
                    activation: Activation::Silu,
                };
                let x = random.floats(2 * height * width * channels);
                let w = random.floats(window.taps() * channels);
                let bias = random.floats(channels);
                let results = 2 * out[0] * out[1] * channels;
                let run = |body: &dyn Fn(DepthwiseConv2dArgs<'_>)| {
                    let mut out = poison(results);
                    body(DepthwiseConv2dArgs {
                        params: &params,
                        x: &x,
                        channels,
                        w: &w,
                        bias: params.bias.then_some(&bias),
                        out: &mut out,
                    });
                    out
                };
                let got = run(&|args| depthwise_conv2d(&kernels, &pools[0], args).unwrap());
                let want = run(&|args| reference::depthwise_conv2d(args).unwrap());
                let what = format!("{row:?} {params:?} {channels}");
                assert_close(&got, &want, 1e-5, &what);
                for pool in &pools[1..] {
                    let other = run(&|args| depthwise_conv2d(&kernels, pool, args).unwrap());
                    assert_same_bits(&other, &got, &what);
                }
            }
        }
    }
}

#[test]
fn the_largest_of_a_window_leaves_padding_out_and_keeps_nan() {
    let window = Window { padding: [1, 1, 0, 1], ..window([3, 2], [2, 2], [1, 2]) };
    let params = MaxPool2d { window };
    // Two channels, the second the negative of the first.
    let image = [1.0, 5.0, -2.0, 0.5, f32::NAN, 4.0];
    let x: Vec<f32> = image.iter().flat_map(|v| [*v, -v]).collect();
    let mut out = poison(3 * 2 * 2);
    max_pool2d(&Pool::new(2), &params, &x, 2, &mut out).unwrap();
    let want = [1.0, -1.0, 5.0, -5.0, 1.0, 2.0, 5.0, -0.5, f32::NAN, f32::NAN, 4.0, -0.5];
    for (found, want) in out.iter().zip(want) {
        assert!(*found == want || found.is_nan() && want.is_nan(), "{out:?}");
    }
    let nothing = Window { padding: [3, 0, 0, 0], ..params.window };
    let mut out = poison(5 * 2);
    let nothing = MaxPool2d { window: Window { stride: [1, 9], ..nothing } };
    max_pool2d(&Pool::new(1), &nothing, &x, 2, &mut out).unwrap();
    assert_eq!(out[..4], [f32::NEG_INFINITY; 4]);
}

#[test]
fn pixels_bring_the_channels_of_each_together() {
    let params = Pixels { channels: 3, height: 2, width: 2 };
    let x: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let mut out = poison(24);
    pixels(&params, &x, &mut out).unwrap();
    assert_eq!(out[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
    assert_eq!(out[12..15], [12.0, 16.0, 20.0]);
    assert_eq!(pixels(&params, &x[1..], &mut out).unwrap_err().kind(), ErrorKind::Shape);
    let none = Pixels { width: 0, ..params };
    assert_eq!(pixels(&none, &x, &mut out).unwrap_err().kind(), ErrorKind::Range);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let case = Case::new(1, Values::Q4, 1, (window([4, 4], [3, 3], [1, 1]), 4, 1, 16));
    let refuse = |change: &dyn Fn(&mut Conv2dArgs<'_>)| {
        let mut out = poison(case.results());
        let mut args = case.args(&mut out);
        change(&mut args);
        conv2d(&kernels, &pool, &mut ConvScratch::default(), args).unwrap_err().kind()
    };
    assert_eq!(refuse(&|a| a.x = &a.x[1..]), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.bias = Some(&[0.0; 15])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.residual = Some(&[0.0; 15])), ErrorKind::Shape);
    assert_eq!(refuse(&|a| a.out = &mut []), ErrorKind::Shape);
    let row = Packed::new(PackFormat::F32_ROW, 16, 36, &[0; 16 * 36 * 4]).unwrap();
    assert_eq!(refuse(&|a| a.w = row), ErrorKind::Format);
    let wide = Packed::new(PackFormat::linear(Values::Q8w), 16, 36, &[0; 2 * 528]).unwrap();
    assert_eq!(refuse(&|a| a.w = wide), ErrorKind::Format);
    let with = |change: &dyn Fn(&mut Conv2d)| {
        let mut params = case.params.clone();
        change(&mut params);
        let mut out = poison(case.results());
        let args = Conv2dArgs { params: &params, ..case.args(&mut out) };
        conv2d(&kernels, &pool, &mut ConvScratch::default(), args).unwrap_err().kind()
    };
    assert_eq!(with(&|p| p.groups = 0), ErrorKind::Shape);
    assert_eq!(with(&|p| p.groups = 3), ErrorKind::Shape);
    assert_eq!(with(&|p| p.groups = 16), ErrorKind::Shape);
    assert_eq!(with(&|p| p.window.kernel = [0, 3]), ErrorKind::Shape);
    assert_eq!(with(&|p| p.window.stride = [0, 1]), ErrorKind::Range);
    assert_eq!(with(&|p| p.window.image = [usize::MAX, 4]), ErrorKind::Range);
    assert_eq!(with(&|p| p.window.padding = [usize::MAX; 4]), ErrorKind::Range);
    assert_eq!(with(&|p| p.window.image = [3, 4]), ErrorKind::Shape);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_windows(
        seed in any::<u64>(),
        values in prop::sample::select(&FORMATS[..]),
        image in prop::array::uniform2(1usize..12),
        kernel in prop::array::uniform2(1usize..5),
        stride in prop::array::uniform2(1usize..4),
        dilation in prop::array::uniform2(1usize..3),
        padding in prop::array::uniform4(0usize..4),
        groups in 1usize..4,
        each in prop::sample::select(&[1usize, 3, 16, 32][..]),
        outputs in prop::sample::select(&[1usize, 5, 16, 32][..]),
    ) {
        let window = Window { image, kernel, stride, padding, dilation };
        prop_assume!(window.out().is_some());
        let pools = pools();
        for kernels in all_kernels().iter().filter(|_| sampled(seed)) {
            let shape = (window.clone(), groups * each, groups, groups * outputs);
            Case::new(seed, values, 2, shape).check(kernels, &pools);
        }
    }
}
