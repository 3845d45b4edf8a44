//! Ops on images.

use limbeck_kernels::KvType;
use limbeck_plan::{
    Activation, Conv2d, DepthwiseConv2d, Dim, MaxPool2d, Op, PackFormat, Patches, Pixels, Symbol,
    Values, Window,
};

use super::harness::{Ask, Builder, Random, compare};

fn rows(count: usize, cols: usize) -> Vec<Dim> {
    vec![Dim::symbol(Symbol::SEQUENCES).times(count as u64), Dim::from(cols)]
}

/// Calls of one image and of three.
fn asks(values: usize) -> Vec<Ask> {
    let mut random = Random::new(2);
    let mut ask = |count: usize| {
        let images = random.numbers(count * values);
        Ask { images, ..Ask::of(&mut random, &vec![1; count]) }
    };
    vec![ask(1), ask(3), ask(1)]
}

const CHANNELS: [usize; 3] = [3, 8, 32];

fn windows() -> Vec<Window> {
    let window = |image, kernel, stride, padding, dilation| Window {
        image,
        kernel: [kernel, kernel],
        stride: [stride, stride],
        padding: [padding; 4],
        dilation: [dilation, dilation],
    };
    vec![
        window([7, 9], 1, 1, 0, 1),
        window([7, 9], 3, 1, 1, 1),
        window([8, 8], 3, 2, 1, 1),
        window([9, 6], 2, 1, 1, 3),
        Window { padding: [2, 0, 1, 3], stride: [2, 1], ..window([10, 5], 3, 1, 0, 1) },
    ]
}

/// Runs an op on the pixels of images, with what comes after them among its inputs.
fn check(
    window: &Window,
    channels: usize,
    outputs: usize,
    op: Op,
    weights: impl Fn(&mut Builder) -> Vec<usize>,
) {
    let [height, width] = window.image;
    let [down, across] = window.out().expect("a window that fits");
    let mut b = Builder::new((channels + outputs) as u64);
    let images = b.images(channels * height * width);
    let pixels = Op::Pixels(Pixels { channels, height, width });
    let mut inputs = vec![b.step(pixels, vec![images], rows(height * width, channels))];
    inputs.extend(weights(&mut b));
    if let Op::Conv2d(Conv2d { residual: true, .. }) = op {
        // The image in another size, as a residual of the result's.
        let whole = Window {
            kernel: [height - down + 1, width - across + 1],
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            ..window.clone()
        };
        let shape = rows(down * across, channels);
        let taken = b.step(Op::MaxPool2d(MaxPool2d { window: whole }), vec![inputs[0]], shape);
        inputs.push(taken);
    }
    let case = format!("{channels} to {outputs}, {op:?}");
    b.output("y", op, inputs, rows(down * across, outputs));
    compare(&b.plan(), &asks(channels * height * width), KvType::F32, 1e-5, &case);
}

#[test]
fn convolutions_match_the_reference() {
    let formats = [Values::F32, Values::F16, Values::Q8, Values::Q4, Values::Q4m];
    for (i, window) in windows().into_iter().enumerate() {
        for channels in CHANNELS {
            for groups in [1, if channels == 3 { 3 } else { 4 }] {
                let outputs = [channels, channels * 2][i % 2];
                let fits =
                    window.out().is_some_and(|[h, w]| h <= window.image[0] && w <= window.image[1]);
                let conv = Conv2d {
                    window: window.clone(),
                    groups,
                    bias: i % 2 == 0,
                    activation: if i % 2 == 0 { Activation::Relu } else { Activation::Silu },
                    residual: outputs == channels && fits,
                };
                let cols = window.taps() * channels / groups;
                let format = PackFormat::linear(formats[i % formats.len()]);
                let bias = conv.bias;
                check(&window, channels, outputs, Op::Conv2d(conv), |b| {
                    let mut weights = vec![b.matrix(format, outputs, cols)];
                    if bias {
                        weights.push(b.vector(outputs));
                    }
                    weights
                });
            }
        }
    }
}

#[test]
fn depthwise_convolutions_and_pools_match_the_reference() {
    for (i, window) in windows().into_iter().enumerate() {
        for channels in CHANNELS {
            let conv = DepthwiseConv2d {
                window: window.clone(),
                bias: i % 2 == 0,
                activation: Activation::Relu6,
            };
            let taps = window.taps();
            let bias = conv.bias;
            check(&window, channels, channels, Op::DepthwiseConv2d(conv), |b| {
                let mut weights = vec![b.matrix(PackFormat::F32_ROW, taps, channels)];
                if bias {
                    weights.push(b.vector(channels));
                }
                weights
            });
            let pool = Op::MaxPool2d(MaxPool2d { window: window.clone() });
            // A window of none of the image has no largest.
            if window.padding.iter().all(|p| *p < window.kernel[0]) && i != 3 {
                check(&window, channels, channels, pool, |_| Vec::new());
            }
        }
    }
}

#[test]
fn patches_match_the_reference() {
    for (lead, patch) in [(0, 2), (1, 4), (2, 1)] {
        let p = Patches { channels: 3, height: 8, width: 12, patch, lead };
        let (count, cols) = (p.rows().expect("rows"), p.cols().expect("columns"));
        let mut b = Builder::new(1);
        let images = b.images(3 * 8 * 12);
        // Tokens are the rows of all images.
        let shape = vec![Dim::symbol(Symbol::TOKENS), Dim::from(cols)];
        b.output("y", Op::Patches(p), vec![images], shape);
        let mut random = Random::new(2);
        let asks: Vec<Ask> = [1, 3]
            .into_iter()
            .map(|n| Ask {
                images: random.numbers(n * 3 * 8 * 12),
                ..Ask::of(&mut random, &vec![count; n])
            })
            .collect();
        compare(&b.plan(), &asks, KvType::F32, 0.0, &format!("{lead} {patch}"));
    }
}
