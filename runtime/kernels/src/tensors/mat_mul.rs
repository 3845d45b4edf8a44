//! Products of two tensors' matrices. The right one is laid into panels, as a weight is, and then meets
//! the rows of the left one in the tiles of a linear.

use super::{Layout, Operands, TensorOut, check_shape};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::linear::{UNIT, float_products};
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use crate::vec_bytes;
use bytemuck::cast_slice;
use limbeck_plan::{MatMul, Values};

/// Memory that ops on tensors work in; grows to the largest call and is then reused.
#[derive(Debug, Default)]
pub struct TensorScratch {
    /// By thread.
    pub(super) panels: Vec<Vec<f32>>,
    /// Values on the way.
    pub(super) values: Vec<f32>,
}

impl TensorScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.panels.iter().map(vec_bytes).sum::<usize>() + vec_bytes(&self.values)
    }

    pub(super) fn take_panels(&mut self) -> Vec<f32> {
        self.panels.pop().unwrap_or_default()
    }

    pub(super) fn give_panels(&mut self, panels: Vec<f32>) {
        self.panels.push(panels);
    }
}

/// The sizes of one product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// The right matrix is `[n, k]`, not `[k, n]`.
    pub transposed: bool,
    pub scale: f32,
}

impl Sizes {
    /// Lays `b` into panels of 16 outputs, zeros after the last.
    pub fn pack(&self, b: &[f32], panels: &mut Vec<f32>) {
        let len = self.n.next_multiple_of(UNIT) * self.k;
        if panels.len() < len {
            panels.resize(len, 0.0);
        }
        self.pack_into(b, panels);
    }

    /// The same, where there is room.
    pub fn pack_into(&self, b: &[f32], panels: &mut [f32]) {
        let Sizes { k, n, transposed, scale, .. } = *self;
        let len = n.next_multiple_of(UNIT) * k;
        for (unit, panel) in panels[..len].chunks_exact_mut((UNIT * k).max(1)).enumerate() {
            let first = unit * UNIT;
            let width = UNIT.min(n - first);
            if transposed {
                for r in 0..UNIT {
                    let column = panel.iter_mut().skip(r).step_by(UNIT);
                    match r < width {
                        true => column
                            .zip(&b[(first + r) * k..][..k])
                            .for_each(|(out, v)| *out = v * scale),
                        false => column.for_each(|out| *out = 0.0),
                    }
                }
            } else {
                for (i, out) in panel.chunks_exact_mut(UNIT).enumerate() {
                    let (values, rest) = out.split_at_mut(width);
                    let row = &b[i * n + first..][..width];
                    values.iter_mut().zip(row).for_each(|(out, v)| *out = v * scale);
                    rest.fill(0.0);
                }
            }
        }
    }

    /// `a` times packed panels.
    pub fn products(
        &self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        a: &[f32],
        panels: &[f32],
        out: &mut [f32],
    ) {
        let Sizes { m, k, n, .. } = *self;
        float_products(kernels, pool, Values::F32, [m, k, n], a, cast_slice(panels), out);
    }
}

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut TensorScratch,
    p: &MatMul,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let (a, b) = (operands.get(0)?, operands.get(1)?);
    let Products { sizes, batches, at_a, at_b } = Products::of(p, a.shape, b.shape, out.shape)?;
    let Sizes { m, k, n, .. } = sizes;
    let (a, b, out) = (a.floats()?, b.floats()?, out.floats()?);
    if out.is_empty() {
        return Ok(());
    }
    if k == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let part = |x: &'_ [f32], at: usize, len: usize| -> std::ops::Range<usize> {
        debug_assert!(at * len + len <= x.len());
        at * len..at * len + len
    };
    let threads = if batches * m * n * k < SERIAL_MACS { 1 } else { pool.threads() };
    if batches < threads {
        let mut panels = scratch.take_panels();
        let mut packed = None;
        for (batch, out) in out.chunks_exact_mut(m * n).enumerate() {
            let place = at_b.place(batch);
            if packed.replace(place) != Some(place) {
                sizes.pack(&b[part(b, place, n * k)], &mut panels);
            }
            let a = &a[part(a, at_a.place(batch), m * k)];
            sizes.products(kernels, Some(pool), a, &panels, out);
        }
        scratch.give_panels(panels);
        return Ok(());
    }
    scratch.panels.resize_with(scratch.panels.len().max(threads), Vec::new);
    let panels = SharedRows::new(&mut scratch.panels);
    let out = SharedRows::new(out);
    pool.run(threads, &|thread| {
        // SAFETY: the pool runs each index once, so that panels are one thread's alone.
        let [panels] = (unsafe { panels.part(thread, 1) }) else { return };
        let share = batches.div_ceil(threads);
        let mut packed = None;
        for batch in thread * share..batches.min((thread + 1) * share) {
            let place = at_b.place(batch);
            if packed.replace(place) != Some(place) {
                sizes.pack(&b[part(b, place, n * k)], panels);
            }
            // SAFETY: each batch is one thread's alone.
            let out = unsafe { out.part(batch * m * n, m * n) };
            sizes.products(kernels, None, &a[part(a, at_a.place(batch), m * k)], panels, out);
        }
    });
    Ok(())
}

/// Which matrices meet.
pub(crate) struct Products {
    pub sizes: Sizes,
    pub batches: usize,
    /// By batch, the number of the left matrix.
    pub at_a: Layout,
    pub at_b: Layout,
}

impl Products {
    pub fn of(p: &MatMul, a: &[usize], b: &[usize], out: &[usize]) -> Result<Products, Error> {
        let matrices = (a, b, out);
        let ([batch_a @ .., m, k], [batch_b @ .., x, y], [batch @ .., om, on]) = matrices else {
            return Err(Error::shape(format!("{a:?} and {b:?} are not matrices")));
        };
        let (kb, n) = if p.transposed { (*y, *x) } else { (*x, *y) };
        check_shape("the product", &[*om, *on], &[*m, n])?;
        check_shape("the right matrix", &[kb], &[*k])?;
        Ok(Products {
            sizes: Sizes { m: *m, k: *k, n, transposed: p.transposed, scale: p.scale },
            batches: batch.iter().product(),
            at_a: Layout::broadcast(batch_a, batch)?,
            at_b: Layout::broadcast(batch_b, batch)?,
        })
    }
}
