//! Convolutions of 3 x 3 pixels by Winograd's minimal filtering, F(2 x 2, 3 x 3): squares of 2 x 2
//! results come from 16 products of what 4 x 4 pixels and the weight were transformed to, where a
//! matrix product needs 36. `Y = A' [(G g G') * (B' d B)] A` (Lavin and Gray, 2016, section 4.1).
//!
//! The weight is transformed in each call, which costs little where an image has many results. A
//! thread then takes some squares at a time through all three steps, so that what lies between them
//! stays in its cache.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over the lines and columns of a square read best by index"
)]

use super::{Conv2dArgs, Images};
use crate::elementwise::SharedRows;
use crate::linear::{UNIT, float_products};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::simd::{LANES, Lanes, Simd, WIDE, WideV};
use crate::table::Kernels;
use crate::vec_bytes;
use bytemuck::cast_slice;
use limbeck_plan::{Activation, Conv2d, Values};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pixels of a square, and with them the matrix products.
const POINTS: usize = 16;
/// Results of an image from which the transforms cost less than the products that they save.
const FEWEST: usize = 256;
/// Bytes that the squares of a task fill between the steps.
const TASK_BYTES: usize = 384 * 1024;
/// Squares of a task at least: each goes through the whole weight.
const TASK_SQUARES: usize = 24;
/// Floats between matrices, beyond their own: caches keep few lines whose addresses differ by a
/// power of two.
const APART: usize = 16;

/// Whether [`Winograd`] computes the convolution: by what it is and the size of an image, so that
/// neither batch nor threads change a result.
pub(super) fn pays(params: &Conv2d, images: &Images, values: Values) -> bool {
    let window = &params.window;
    let kernel = window.kernel == [3, 3] && window.stride == [1, 1] && window.dilation == [1, 1];
    let whole = params.groups == 1 && images.channels.is_multiple_of(WIDE);
    kernel && whole && !values.is_quantised() && images.out[0] * images.out[1] >= FEWEST
}

/// Memory that it works in.
#[derive(Debug, Default)]
pub(super) struct WinogradScratch {
    /// `[16, units, C, 16]`.
    weight: Vec<f32>,
    /// By thread.
    squares: Vec<Squares>,
}

/// What a thread has of its squares.
#[derive(Debug, Default)]
struct Squares {
    /// `[16]` matrices `[squares, C]`.
    pixels: Vec<f32>,
    /// `[16]` matrices `[squares, units 16]`.
    products: Vec<f32>,
}

impl WinogradScratch {
    pub(super) fn bytes(&self) -> usize {
        let squares = self.squares.iter().map(|s| vec_bytes(&s.pixels) + vec_bytes(&s.products));
        vec_bytes(&self.weight) + vec_bytes(&self.squares) + squares.sum::<usize>()
    }
}

/// A step for some channels or squares.
pub(crate) enum WinogradTask<'a> {
    Weight(WeightTask<'a>),
    Pixels(PixelsTask<'a>),
    Results(ResultsTask<'a>),
}

/// Transforms a unit of the weight.
pub(crate) struct WeightTask<'a> {
    half: bool,
    /// Its columns, of 16 outputs each: `[9, C]`.
    w: &'a [u8],
    channels: usize,
    /// `[16]` matrices `[C, 16]`, of which one is a unit's.
    out: &'a SharedRows<'a>,
    /// Where the unit lies in the first, and from one to the next.
    first: usize,
    apart: usize,
}

/// Transforms the pixels of squares.
pub(crate) struct PixelsTask<'a> {
    grid: Grid<'a>,
    x: &'a [f32],
    squares: Range<usize>,
    /// `[16]` matrices `[squares, C]`.
    out: &'a mut [f32],
    apart: usize,
}

/// Makes results of the products of squares.
pub(crate) struct ResultsTask<'a> {
    kernels: &'a Kernels,
    grid: Grid<'a>,
    /// `[16]` matrices `[squares, units 16]`.
    products: &'a [f32],
    apart: usize,
    squares: Range<usize>,
    n: usize,
    bias: &'a [f32],
    activation: Activation,
    residual: Option<&'a [f32]>,
    out: &'a SharedRows<'a>,
}

/// The squares of the images, left to right and top to bottom.
#[derive(Clone, Copy)]
struct Grid<'a> {
    params: &'a Conv2d,
    images: Images,
}

/// Where a square lies.
struct At {
    image: usize,
    /// Its first result.
    top: usize,
    left: usize,
}

impl Grid<'_> {
    fn sides(&self) -> [usize; 2] {
        self.images.out.map(|side| side.div_ceil(2))
    }

    fn squares(&self) -> usize {
        let [down, across] = self.sides();
        self.images.count * down * across
    }

    fn at(&self, square: usize) -> At {
        let [down, across] = self.sides();
        let (place, left) = (square / across, square % across * 2);
        At { image: place / down, top: place % down * 2, left }
    }

    /// For each line of a square's pixels where it begins in the images, and for each pixel of it
    /// how far from there; none outside of the image.
    fn pixels(&self, at: &At) -> [[Option<usize>; 4]; 2] {
        let (window, channels) = (&self.params.window, self.images.channels);
        let [height, width] = window.image;
        let inside = |first: usize, i: usize, before: usize, len: usize| {
            (first + i).checked_sub(before).filter(|at| *at < len)
        };
        let lines = std::array::from_fn(|i| {
            let y = inside(at.top, i, window.padding[0], height)?;
            Some((at.image * height + y) * width * channels)
        });
        let across =
            std::array::from_fn(|j| Some(inside(at.left, j, window.padding[1], width)? * channels));
        [lines, across]
    }
}

/// A convolution of this kind, whose operands are checked.
pub(super) struct Winograd<'a> {
    kernels: &'a Kernels,
    grid: Grid<'a>,
    x: &'a [f32],
    w: Packed<'a>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    out: SharedRows<'a>,
}

impl<'a> Winograd<'a> {
    pub(super) fn new(kernels: &'a Kernels, images: Images, args: Conv2dArgs<'a>) -> Self {
        let Conv2dArgs { params, x, w, bias, residual, out } = args;
        let grid = Grid { params, images };
        Winograd { kernels, grid, x, w, bias, residual, out: SharedRows::new(out) }
    }

    pub(super) fn run(&self, pool: &Pool, scratch: &mut WinogradScratch) {
        let (channels, units) = (self.grid.images.channels, self.units());
        let len = POINTS * units * channels * UNIT;
        if scratch.weight.len() < len {
            scratch.weight.resize(len, 0.0);
        }
        let weight = &mut scratch.weight[..len];
        self.transform(pool, weight);
        let threads = pool.threads();
        let squares = self.grid.squares();
        let bytes = POINTS * (channels + units * UNIT) * size_of::<f32>();
        let most = (TASK_BYTES / bytes).max(TASK_SQUARES);
        let tasks = squares.div_ceil(most).next_multiple_of(threads);
        let each = squares.div_ceil(tasks);
        if scratch.squares.len() < threads {
            scratch.squares.resize_with(threads, Squares::default);
        }
        let of_threads = SharedRows::new(&mut scratch.squares[..threads]);
        let next = AtomicUsize::new(0);
        pool.run(threads, &|thread| {
            // SAFETY: the pool runs each index once, so that these are one thread's alone.
            let [own] = (unsafe { of_threads.part(thread, 1) }) else { return };
            loop {
                let first = next.fetch_add(1, Ordering::Relaxed) * each;
                if first >= squares {
                    return;
                }
                self.task(weight, own, first..squares.min(first + each));
            }
        });
    }

    fn units(&self) -> usize {
        self.w.rows().div_ceil(UNIT)
    }

    /// Transforms the weight, unit by unit.
    fn transform(&self, pool: &Pool, weight: &mut [f32]) {
        let (channels, units) = (self.grid.images.channels, self.units());
        let unit_bytes = self.w.bytes().len() / units;
        let out = SharedRows::new(weight);
        pool.run(units, &|unit| {
            let task = WeightTask {
                half: self.w.format().values == Values::F16,
                w: &self.w.bytes()[unit * unit_bytes..][..unit_bytes],
                channels,
                out: &out,
                first: unit * channels * UNIT,
                apart: units * channels * UNIT,
            };
            // SAFETY: the pool runs each index once, so that the unit is this task's alone.
            unsafe { self.kernels.winograd(&mut WinogradTask::Weight(task)) };
        });
    }

    /// All three steps for some squares.
    fn task(&self, weight: &[f32], own: &mut Squares, squares: Range<usize>) {
        let (channels, wide) = (self.grid.images.channels, self.units() * UNIT);
        let pixels_apart = squares.len() * channels + APART;
        let products_apart = squares.len() * wide + APART;
        for (vec, apart) in [(&mut own.pixels, pixels_apart), (&mut own.products, products_apart)] {
            if vec.len() < POINTS * apart {
                vec.resize(POINTS * apart, 0.0);
            }
        }
        let pixels = WinogradTask::Pixels(PixelsTask {
            grid: self.grid,
            x: self.x,
            squares: squares.clone(),
            out: &mut own.pixels,
            apart: pixels_apart,
        });
        // SAFETY: it writes what this thread borrows.
        unsafe { self.kernels.winograd(&mut { pixels }) };
        for point in 0..POINTS {
            let out = &mut own.products[point * products_apart..][..squares.len() * wide];
            let weight = &weight[point * wide * channels..][..wide * channels];
            let x = &own.pixels[point * pixels_apart..][..squares.len() * channels];
            let sizes = [squares.len(), channels, wide];
            float_products(self.kernels, None, Values::F32, sizes, x, cast_slice(weight), out);
        }
        let results = WinogradTask::Results(ResultsTask {
            kernels: self.kernels,
            grid: self.grid,
            products: &own.products,
            apart: products_apart,
            squares,
            n: self.w.rows(),
            bias: self.bias.unwrap_or_default(),
            activation: self.grid.params.activation,
            residual: self.residual,
            out: &self.out,
        });
        // SAFETY: each square is one task's alone.
        unsafe { self.kernels.winograd(&mut { results }) };
    }
}

/// Runs a step.
///
/// # Safety
/// No other thread touches what the step writes meanwhile: the unit of the weight, or the results of
/// its squares.
#[inline(always)]
pub(crate) unsafe fn winograd_task<S: Simd>(s: S, task: &mut WinogradTask<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        match task {
            WinogradTask::Weight(task) => weight(s, task),
            WinogradTask::Pixels(task) => pixels(s, task),
            WinogradTask::Results(task) => results(s, task),
        }
    }
}

/// `G g G'`.
///
/// # Safety
/// As for [`winograd_task`].
#[inline(always)]
unsafe fn weight<S: Simd>(s: S, task: &WeightTask<'_>) {
    let (wide, channels) = (s.wide(), task.channels);
    let size = if task.half { 2 } else { 4 };
    assert!(task.w.len() >= 9 * channels * UNIT * size);
    for channel in 0..channels {
        let mut down = [[wide.splat(0.0); 4]; 3];
        for j in 0..3 {
            let mut g = [wide.splat(0.0); 3];
            for i in 0..3 {
                let at = ((3 * i + j) * channels + channel) * UNIT * size;
                // SAFETY: within the length that was asserted; loads need no alignment.
                g[i] = unsafe {
                    let column = task.w.as_ptr().add(at);
                    if task.half { wide.load_f16(column.cast()) } else { wide.load(column.cast()) }
                };
            }
            down[j] = weight_line(wide, g);
        }
        for i in 0..4 {
            let line = weight_line(wide, [down[0][i], down[1][i], down[2][i]]);
            for j in 0..4 {
                let at = task.first + (4 * i + j) * task.apart + channel * UNIT;
                // SAFETY: a part of the unit, which is this task's alone; it holds 16 values.
                unsafe { wide.store(task.out.part(at, UNIT).as_mut_ptr(), line[j]) };
            }
        }
    }
}

/// `G g`.
#[inline(always)]
fn weight_line<L: Lanes>(l: L, [a, b, c]: [L::V; 3]) -> [L::V; 4] {
    let (half, ends) = (l.splat(0.5), l.add(a, c));
    [a, l.mul(half, l.add(ends, b)), l.mul(half, l.sub(ends, b)), c]
}

/// `B' d B`.
#[inline(always)]
fn pixels<S: Simd>(s: S, task: &mut PixelsTask<'_>) {
    let (wide, channels) = (s.wide(), task.grid.images.channels);
    assert!(task.out.len() >= 15 * task.apart + task.squares.len() * channels);
    for (square, index) in task.squares.clone().enumerate() {
        let [lines, across] = task.grid.pixels(&task.grid.at(index));
        for at in (0..channels).step_by(WIDE) {
            let mut down = [[wide.splat(0.0); 4]; 4];
            for j in 0..4 {
                let mut d = [wide.splat(0.0); 4];
                for i in 0..4 {
                    if let (Some(line), Some(pixel)) = (lines[i], across[j]) {
                        let values = &task.x[line + pixel + at..][..WIDE];
                        // SAFETY: they are 16.
                        d[i] = unsafe { wide.load(values.as_ptr()) };
                    }
                }
                down[j] = pixel_line(wide, d);
            }
            for i in 0..4 {
                let line = pixel_line(wide, [down[0][i], down[1][i], down[2][i], down[3][i]]);
                for j in 0..4 {
                    let at = (4 * i + j) * task.apart + square * channels + at;
                    // SAFETY: within the length that was asserted, since `at + 16 <= channels`.
                    unsafe { wide.store(task.out.as_mut_ptr().add(at), line[j]) };
                }
            }
        }
    }
}

/// `B' d`.
#[inline(always)]
fn pixel_line<L: Lanes>(l: L, [a, b, c, d]: [L::V; 4]) -> [L::V; 4] {
    [l.sub(a, c), l.add(b, c), l.sub(c, b), l.sub(b, d)]
}

/// `A' m A`, the bias, the residual and the activation.
///
/// # Safety
/// As for [`winograd_task`].
#[inline(always)]
unsafe fn results<S: Simd>(s: S, task: &ResultsTask<'_>) {
    let (wide, n) = (s.wide(), task.n);
    let padded = n.next_multiple_of(UNIT);
    assert!(task.products.len() >= 15 * task.apart + task.squares.len() * padded);
    let [height, width] = task.grid.images.out;
    for (square, index) in task.squares.clone().enumerate() {
        let At { image, top, left } = task.grid.at(index);
        for at in (0..n).step_by(UNIT) {
            let mut down = [[wide.splat(0.0); 2]; 4];
            for j in 0..4 {
                let mut m = [wide.splat(0.0); 4];
                for i in 0..4 {
                    let at = (4 * i + j) * task.apart + square * padded + at;
                    // SAFETY: within the length that was asserted, since `at + 16 <= padded`.
                    m[i] = unsafe { wide.load(task.products.as_ptr().add(at)) };
                }
                down[j] = result_line(wide, m);
            }
            let bias = load_wide(s, task.bias, at);
            for i in 0..2.min(height - top) {
                let line = result_line(wide, [down[0][i], down[1][i], down[2][i], down[3][i]]);
                for j in 0..2.min(width - left) {
                    let pixel = ((image * height + top + i) * width + left + j) * n;
                    let mut v = wide.add(line[j], bias);
                    if let Some(residual) = task.residual {
                        v = wide.add(v, load_wide(s, &residual[pixel..][..n], at));
                    }
                    // SAFETY: results of this square, which are this task's alone.
                    let out = unsafe { task.out.part(pixel, n) };
                    if task.activation == Activation::Identity {
                        store_wide(s, out, at, v);
                        continue;
                    }
                    // By its own kernel: here it would be compiled for each of the four.
                    let mut sums = [0.0; UNIT];
                    store_wide(s, &mut sums, 0, v);
                    let out = &mut out[at..n.min(at + UNIT)];
                    task.kernels.activate(task.activation, &sums[..out.len()], out);
                }
            }
        }
    }
}

/// `A' m`.
#[inline(always)]
fn result_line<L: Lanes>(l: L, [a, b, c, d]: [L::V; 4]) -> [L::V; 2] {
    [l.add(l.add(a, b), c), l.sub(l.sub(b, c), d)]
}

/// The first 16 elements of `x` from `at`, zeros after its end.
#[inline(always)]
fn load_wide<S: Simd>(s: S, x: &[f32], at: usize) -> WideV<S> {
    match x.get(at..at + WIDE) {
        // SAFETY: they are 16.
        Some(whole) => unsafe { s.wide().load(whole.as_ptr()) },
        None => s.join([s.load_some(x, at), s.load_some(x, at + LANES)]),
    }
}

/// Writes the lanes of `v` that fall within `out` from `at`.
#[inline(always)]
fn store_wide<S: Simd>(s: S, out: &mut [f32], at: usize, v: WideV<S>) {
    match out.get_mut(at..at + WIDE) {
        // SAFETY: they are 16.
        Some(whole) => unsafe { s.wide().store(whole.as_mut_ptr(), v) },
        None => {
            let [low, high] = s.halves(v);
            s.store_some(out, at, low);
            s.store_some(out, at + LANES, high);
        }
    }
}
