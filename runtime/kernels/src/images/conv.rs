//! Convolutions as matrix products whose rows are gathered a few at a time (implicit GEMM): a task
//! takes some pixels of the result, lays what their windows see side by side where the cache holds
//! it, and runs the tiles of the linear over it.
//!
//! Where the channels of a group are whole blocks, a quantised weight meets pixels that were
//! quantised once, whatever the number of windows that see them; otherwise each row is quantised.
//! The bits are the same, since blocks are. What [`winograd::pays`] for goes its own way.

use super::Images;
use super::gather::Gather;
use super::winograd::{self, Winograd, WinogradScratch};
use crate::elementwise::SharedRows;
use crate::error::{Error, ErrorKind, check_len};
use crate::linear::{ActBlock, Epilogue, Input, LinearTask, QuantActs, UNIT, whole_products};
use crate::packed::Packed;
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use crate::vec_bytes;
use limbeck_plan::{Activation, Conv2d, Layout, QUANT_BLOCK, Values};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of gathered rows that a task goes through for each unit of the weight.
const TILE_BYTES: usize = 256 * 1024;
/// Rows of a tile at least, as many as kernels take at once.
const TILE_ROWS: usize = 12;
/// Elements from which quantising the pixels gets its own parallel region.
const PARALLEL_QUANTISE: usize = 4 * 1024;

/// The operands of [`conv2d`]; see [`limbeck_plan::Conv2d`] for the formula.
#[derive(Debug)]
pub struct Conv2dArgs<'a> {
    /// What the op's step says.
    pub params: &'a Conv2d,
    /// `[images h w, C]`.
    pub x: &'a [f32],
    /// `[N, kh kw C / groups]` in panels or quads.
    pub w: Packed<'a>,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// `[images h' w', N]`.
    pub residual: Option<&'a [f32]>,
    /// `[images h' w', N]`.
    pub out: &'a mut [f32],
}

impl Conv2dArgs<'_> {
    pub(crate) fn check(&self) -> Result<Images, Error> {
        let (n, k, groups) = (self.w.rows(), self.w.cols(), self.params.groups);
        let taps = self.params.window.taps();
        let format = self.w.format();
        let read = matches!(format.layout, Layout::Panels | Layout::Quads);
        if !read || format.values == Values::Q8w {
            return Err(Error::new(
                ErrorKind::Format,
                format!("a convolution cannot read a weight in {format}"),
            ));
        }
        if groups == 0 || taps == 0 || !n.is_multiple_of(groups) || !k.is_multiple_of(taps) {
            let message = format!("a weight of {n} x {k} is not {groups} groups of {taps} pixels");
            return Err(Error::shape(message));
        }
        let channels = (k / taps).saturating_mul(groups);
        let images = Images::of(&self.params.window, channels, self.x.len())?;
        let values = images.rows().saturating_mul(n);
        check_len("the convolution's result", self.out.len(), values)?;
        self.bias.map_or(Ok(()), |bias| check_len("the bias", bias.len(), n))?;
        self.residual.map_or(Ok(()), |r| check_len("the residual", r.len(), values))?;
        Ok(images)
    }
}

/// Memory that [`conv2d`] works in; grows to the largest call and is then reused.
#[derive(Debug, Default)]
pub struct ConvScratch {
    /// The pixels, quantised.
    pixels: QuantActs,
    /// By thread.
    tiles: Vec<Tile>,
    winograd: WinogradScratch,
}

/// What a thread gathers.
#[derive(Debug, Default)]
struct Tile {
    /// `[rows, K]`.
    floats: Vec<f32>,
    acts: QuantActs,
    /// Which rows of the result these are.
    to: Vec<usize>,
    /// `[rows, units 16]`: products of outputs that are not whole units.
    products: Vec<f32>,
}

impl ConvScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let tiles = self.tiles.iter().map(Tile::bytes).sum::<usize>();
        self.pixels.bytes() + vec_bytes(&self.tiles) + tiles + self.winograd.bytes()
    }
}

impl Tile {
    fn bytes(&self) -> usize {
        let floats = vec_bytes(&self.floats) + vec_bytes(&self.products);
        floats + self.acts.bytes() + vec_bytes(&self.to)
    }
}

/// Computes `out`; see [`Conv2dArgs`]. Activations meet a quantised weight as those of
/// [`crate::linear`] do, in blocks of 32 columns of what a window sees.
///
/// Groups whose outputs are not a multiple of 16 compute the whole units that they touch and drop
/// what is not theirs.
///
/// Large images and kernels of 3 x 3 whose weights are floats go through Winograd's transforms: the sums are
/// others than the direct ones, and a value that is not finite reaches the squares of 2 x 2 results of
/// which a window sees it.
///
/// # Errors
/// `Shape` when the operands do not fit each other, `Range` for a window that does not move over the
/// image, `Format` for a weight in another layout.
pub fn conv2d(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut ConvScratch,
    args: Conv2dArgs<'_>,
) -> Result<(), Error> {
    let images = args.check()?;
    if images.rows() == 0 {
        return Ok(());
    }
    let values = args.w.format().values;
    if winograd::pays(args.params, &images, values) {
        Winograd::new(kernels, images, args).run(pool, &mut scratch.winograd);
        return Ok(());
    }
    let Conv2dArgs { params, x, w, bias, residual, out } = args;
    let (k, each) = (w.cols(), images.channels / params.groups);
    let ready = params.groups == 1 && params.window.is_pixel();
    let quantised = values.is_quantised();
    let whole = quantised && (ready || each.is_multiple_of(QUANT_BLOCK));
    let pixels = match whole {
        true => quantise(kernels, pool, &mut scratch.pixels, (x, values), images.channels),
        false => Input::Floats(x),
    };
    let out = SharedRows::new(out);
    let n = w.rows();
    let epilogue = Epilogue {
        parts: 1,
        bias,
        activation: params.activation,
        gated: false,
        residual,
        residual_first: true,
        n_out: n,
        to: None,
        out: &out,
    };
    if ready {
        let task = LinearTask {
            input: pixels,
            w: w.bytes(),
            k,
            stored: w.stored_cols(),
            n,
            rows: 0..images.rows(),
            units: 0..n.div_ceil(UNIT),
            first_unit: 0,
            epilogue: &epilogue,
        };
        whole_products(kernels, pool, values, &task);
        return Ok(());
    }
    let conv = Conv { kernels, params, images, pixels, w, values, each, epilogue };
    conv.run(pool, &mut scratch.tiles);
    Ok(())
}

/// The pixels in blocks, once for all windows.
fn quantise<'s>(
    kernels: &Kernels,
    pool: &Pool,
    acts: &'s mut QuantActs,
    (x, values): (&[f32], Values),
    channels: usize,
) -> Input<'s> {
    let pixels = x.len() / channels;
    acts.reserve(pixels, channels);
    let rows = acts.rows(pixels, channels);
    let threads = if x.len() < PARALLEL_QUANTISE { 1 } else { pool.threads() };
    let chunk = pixels.div_ceil(threads * 2);
    pool.run(pixels.div_ceil(chunk), &|part| {
        for pixel in part * chunk..pixels.min((part + 1) * chunk) {
            // SAFETY: each row is one task's alone.
            let (q, blocks) = unsafe { rows.row(pixel) };
            kernels.quantise_row(&x[pixel * channels..][..channels], None, values, q, blocks);
        }
    });
    acts.input(pixels, channels)
}

/// A convolution whose rows are gathered.
struct Conv<'a> {
    kernels: &'a Kernels,
    params: &'a Conv2d,
    images: Images,
    /// As they are, or whole pixels quantised.
    pixels: Input<'a>,
    w: Packed<'a>,
    values: Values,
    /// Channels of a group.
    each: usize,
    epilogue: Epilogue<'a>,
}

/// How the work is cut.
#[derive(Clone, Copy)]
struct Cut {
    /// Rows of a tile.
    rows: usize,
    tiles: usize,
    /// Parts of a group's units.
    parts: usize,
}

impl Conv<'_> {
    fn run(&self, pool: &Pool, tiles: &mut Vec<Tile>) {
        let groups = self.params.groups;
        let macs = self.images.rows().saturating_mul(self.w.rows()).saturating_mul(self.w.cols());
        let threads = if macs < SERIAL_MACS { 1 } else { pool.threads() };
        let cut = self.cut(threads);
        if tiles.len() < threads {
            tiles.resize_with(threads, Tile::default);
        }
        let tiles = SharedRows::new(&mut tiles[..threads]);
        let (next, tasks) = (AtomicUsize::new(0), groups * cut.tiles * cut.parts);
        pool.run(threads, &|thread| {
            // SAFETY: the pool runs each index once, so that a tile is one thread's alone.
            let [tile] = (unsafe { tiles.part(thread, 1) }) else { return };
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                self.task(tile, &cut, task);
            }
        });
    }

    /// Tiles of nearly the same size, as many for each thread; units are cut where there are too few.
    fn cut(&self, threads: usize) -> Cut {
        let (rows, k) = (self.images.rows(), self.w.cols());
        let row_bytes = if self.values.is_quantised() { k + k / 2 } else { k * 4 };
        let most = (TILE_BYTES / row_bytes.max(1)).next_multiple_of(TILE_ROWS).max(2 * TILE_ROWS);
        // Up to half as large again: each tile goes through the whole weight.
        let tiles = ((rows + most / 2) / most).max(1).next_multiple_of(threads);
        let each = rows.div_ceil(tiles).max(TILE_ROWS);
        let tiles = rows.div_ceil(each);
        let alone = threads.div_ceil(tiles * self.params.groups);
        Cut { rows: each, tiles, parts: if self.units_are_whole() { alone } else { 1 } }
    }

    /// Outputs of a group.
    fn outputs(&self) -> usize {
        self.w.rows() / self.params.groups
    }

    /// Whether no unit has outputs of two groups.
    fn units_are_whole(&self) -> bool {
        self.params.groups == 1 || self.outputs().is_multiple_of(UNIT)
    }

    /// One tile of one group, and a part of its units.
    fn task(&self, tile: &mut Tile, cut: &Cut, task: usize) {
        let (part, task) = (task % cut.parts, task / cut.parts);
        let (group, first) = (task / cut.tiles, task % cut.tiles * cut.rows);
        let rows = first..self.images.rows().min(first + cut.rows);
        self.gather(tile, group, rows.clone());
        let outputs = group * self.outputs()..(group + 1) * self.outputs();
        if !self.units_are_whole() {
            return self.part_units(tile, rows, outputs);
        }
        let all = outputs.start / UNIT..outputs.end.div_ceil(UNIT);
        let step = all.len().div_ceil(cut.parts).next_multiple_of(2);
        let start = all.end.min(all.start + part * step);
        let units = start..all.end.min(start + step);
        tile.to.clear();
        tile.to.extend(rows.clone());
        let epilogue = Epilogue { to: Some(&tile.to), ..self.epilogue };
        let task = LinearTask {
            input: self.input(tile, rows.len()),
            w: self.w.bytes(),
            k: self.w.cols(),
            stored: self.w.stored_cols(),
            n: self.w.rows(),
            rows: 0..rows.len(),
            units,
            first_unit: 0,
            epilogue: &epilogue,
        };
        // SAFETY: the tile holds the rows, the weight the units; no other task writes these outputs.
        unsafe { self.kernels.linear_task(self.values, &task) };
    }

    /// Lays what the windows of `rows` see into the tile.
    fn gather(&self, tile: &mut Tile, group: usize, rows: Range<usize>) {
        let (k, each) = (self.w.cols(), self.each);
        let gather = Gather {
            window: &self.params.window,
            out: self.images.out,
            pixel: self.images.channels,
            first: group * each,
            take: each,
        };
        let quantised = self.values.is_quantised();
        if quantised {
            tile.acts.reserve(rows.len(), k);
        }
        let floats = match (quantised, self.pixels) {
            (true, Input::Quantised { .. }) => 0,
            (true, Input::Floats(_)) => k,
            (false, _) => rows.len() * k,
        };
        if tile.floats.len() < floats {
            tile.floats.resize(floats, 0.0);
        }
        let acts = tile.acts.rows(if quantised { rows.len() } else { 0 }, k);
        for (at, row) in rows.enumerate() {
            match self.pixels {
                Input::Floats(x) if !quantised => {
                    gather.row(x, row, 0.0, &mut tile.floats[at * k..][..k]);
                }
                Input::Floats(x) => {
                    let floats = &mut tile.floats[..k];
                    gather.row(x, row, 0.0, floats);
                    // SAFETY: the tile is this thread's alone, and no other row of it is in use.
                    let (q, blocks) = unsafe { acts.row(at) };
                    self.kernels.quantise_row(floats, None, self.values, q, blocks);
                }
                Input::Quantised { q: x, blocks: of } => {
                    let in_blocks = Gather {
                        pixel: gather.pixel / QUANT_BLOCK,
                        first: gather.first / QUANT_BLOCK,
                        take: gather.take / QUANT_BLOCK,
                        ..gather
                    };
                    // SAFETY: as above.
                    let (q, blocks) = unsafe { acts.row(at) };
                    gather.row(x, row, 0, q);
                    in_blocks.row(of, row, ActBlock::default(), blocks);
                }
            }
        }
    }

    fn input<'t>(&self, tile: &'t Tile, rows: usize) -> Input<'t> {
        let k = self.w.cols();
        match self.values.is_quantised() {
            true => tile.acts.input(rows, k),
            false => Input::Floats(&tile.floats[..rows * k]),
        }
    }

    /// Products of the units that `outputs` touch, and of these what is theirs.
    fn part_units(&self, tile: &mut Tile, rows: Range<usize>, outputs: Range<usize>) {
        let (n, e) = (self.w.rows(), &self.epilogue);
        let start = outputs.start / UNIT * UNIT;
        let end = outputs.end.next_multiple_of(UNIT).min(n);
        // Such ranges are what views have.
        let Ok(w) = self.w.row_range(start..end) else { return };
        let mut products = std::mem::take(&mut tile.products);
        let held = end - start;
        if products.len() < rows.len() * held {
            products.resize(rows.len() * held, 0.0);
        }
        let part = SharedRows::new(&mut products[..rows.len() * held]);
        let plain = Epilogue {
            bias: None,
            activation: Activation::Identity,
            residual: None,
            n_out: held,
            out: &part,
            ..self.epilogue
        };
        let task = LinearTask {
            input: self.input(tile, rows.len()),
            w: w.bytes(),
            k: w.cols(),
            stored: w.stored_cols(),
            n: held,
            rows: 0..rows.len(),
            units: 0..held.div_ceil(UNIT),
            first_unit: 0,
            epilogue: &plain,
        };
        // SAFETY: the tile holds the rows and the products, the view the units.
        unsafe { self.kernels.linear_task(self.values, &task) };
        for (row, products) in rows.zip(products.chunks_exact_mut(held)) {
            let sums = &mut products[outputs.start - start..][..outputs.len()];
            let at = row * n + outputs.start;
            if let Some(bias) = e.bias {
                sums.iter_mut().zip(&bias[outputs.clone()]).for_each(|(sum, b)| *sum += b);
            }
            if let Some(residual) = e.residual {
                sums.iter_mut().zip(&residual[at..]).for_each(|(sum, r)| *sum += r);
            }
            // SAFETY: outputs of this row and group, which are this task's alone.
            let out = unsafe { e.out.part(at, outputs.len()) };
            self.kernels.activate(e.activation, sums, out);
        }
        tile.products = products;
    }
}
