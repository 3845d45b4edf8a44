//! Attention of tensors' matrices. Scores of a few rows at a time lie in a thread's memory; keys and values
//! are laid into panels, as the right matrix of a product is.

use super::mat_mul::Sizes;
use super::{Layout, Operands, TensorArg, TensorOut, TensorScratch, check_shape, grow};
use crate::elementwise::SharedRows;
use crate::error::Error;
use crate::linear::UNIT;
use crate::pool::{Pool, SERIAL_MACS};
use crate::table::Kernels;
use limbeck_plan::Attend;

/// Scores that a thread has at a time, but for rows that are longer.
const SCORES: usize = 1 << 15;

/// Which matrices meet, and their sizes.
pub(crate) struct Attended<'a> {
    pub batches: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub width: usize,
    /// By batch, the numbers of the queries', the keys' and the values' matrices.
    pub at: [Layout; 3],
    /// The mask and, by score, its place.
    mask: Option<(&'a [f32], Layout)>,
}

impl<'a> Attended<'a> {
    pub fn of(p: &Attend, operands: &Operands<'a>, out: &[usize]) -> Result<Attended<'a>, Error> {
        let [q, k, v] = [operands.get(0)?, operands.get(1)?, operands.get(2)?].map(|x| x.shape);
        let shapes = (q, k, v, out);
        let (
            [batch_q @ .., m, of_q],
            [batch_k @ .., k0, k1],
            [batch_v @ .., v0, v1],
            [batch @ .., out_m, out_width],
        ) = shapes
        else {
            return Err(Error::shape(format!("{q:?}, {k:?} and {v:?} are not matrices")));
        };
        let (n, of_k) = if p.keys_turned { (k1, k0) } else { (k0, k1) };
        let (of_v, width) = if p.values_turned { (v1, v0) } else { (v0, v1) };
        check_shape("what is attended", &[*out_m, *out_width], &[*m, *width])?;
        check_shape("the keys", &[*of_k], &[*of_q])?;
        check_shape("the values", &[*of_v], &[*n])?;
        let layout = |axes: &[usize]| Layout::broadcast(axes, batch);
        let mask = match p.mask {
            false => None,
            true => {
                let mask: TensorArg<'a> = operands.get(3)?;
                let scores = [batch, &[*m, *n]].concat();
                Some((mask.floats()?, Layout::broadcast(mask.shape, &scores)?))
            }
        };
        Ok(Attended {
            batches: batch.iter().product(),
            m: *m,
            k: *of_q,
            n: *n,
            width: *width,
            at: [layout(batch_q)?, layout(batch_k)?, layout(batch_v)?],
            mask,
        })
    }

    /// Writes a row's mask.
    pub fn mask_of(&self, batch: usize, row: usize, out: &mut [f32]) {
        if let Some((mask, layout)) = &self.mask {
            let first = (batch * self.m + row) * self.n;
            layout.copy(bytemuck::cast_slice(mask), first, bytemuck::cast_slice_mut(out));
        }
    }

    /// Rows that go through a thread's scores at a time.
    fn rows(&self) -> usize {
        (SCORES / self.n).clamp(1, self.m)
    }
}

/// A thread's memory, in parts.
struct Memory<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
    scores: &'a mut [f32],
    row: &'a mut [f32],
}

/// What tasks share.
struct Call<'a> {
    kernels: &'a Kernels,
    shape: &'a Attended<'a>,
    q: &'a [f32],
    zero_nan: bool,
    scores: Sizes,
    mixed: Sizes,
}

impl Call<'_> {
    /// Words of a thread's keys, values and scores, and of a row.
    fn parts(&self) -> [usize; 4] {
        let Attended { k, n, width, .. } = *self.shape;
        let panels = |outputs: usize, inputs: usize| outputs.next_multiple_of(UNIT) * inputs;
        [panels(n, k), panels(width, n), self.shape.rows() * n, n]
    }

    fn split<'a>(&self, memory: &'a mut [f32]) -> Memory<'a> {
        let [keys, values, scores, row] = self.parts();
        let (keys, rest) = memory.split_at_mut(keys);
        let (values, rest) = rest.split_at_mut(values);
        let (scores, rest) = rest.split_at_mut(scores);
        Memory { keys, values, scores, row: &mut rest[..row] }
    }

    /// Results of the rows from `first` on.
    fn rows(&self, batch: usize, first: usize, memory: &mut Memory<'_>, out: &mut [f32]) {
        let Attended { m, k, n, width, ref at, ref mask, .. } = *self.shape;
        let rows = out.len() / width;
        let scores = &mut memory.scores[..rows * n];
        if k == 0 {
            scores.fill(0.0);
        } else {
            let q = &self.q[(at[0].place(batch) * m + first) * k..][..rows * k];
            let sizes = Sizes { m: rows, ..self.scores };
            sizes.products(self.kernels, None, q, memory.keys, scores);
        }
        for (i, scores) in scores.chunks_exact_mut(n).enumerate() {
            if mask.is_some() {
                self.shape.mask_of(batch, first + i, memory.row);
                memory.row.iter_mut().zip(&*scores).for_each(|(mask, score)| *mask += score);
            } else {
                memory.row.copy_from_slice(scores);
            }
            self.kernels.softmax(memory.row, false, scores);
            if self.zero_nan {
                scores.iter_mut().for_each(|v| *v = if v.is_nan() { 0.0 } else { *v });
            }
        }
        let sizes = Sizes { m: rows, ..self.mixed };
        sizes.products(self.kernels, None, scores, memory.values, out);
    }
}

pub(super) fn run(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut TensorScratch,
    p: &Attend,
    operands: &Operands<'_>,
    out: &mut TensorOut<'_>,
) -> Result<(), Error> {
    let shape = Attended::of(p, operands, out.shape)?;
    let [q, keys, values] = [operands.get(0)?, operands.get(1)?, operands.get(2)?];
    let (q, keys, values) = (q.floats()?, keys.floats()?, values.floats()?);
    let out = out.floats()?;
    let Attended { batches, m, k, n, width, .. } = shape;
    if out.is_empty() || n == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let call = Call {
        kernels,
        shape: &shape,
        q,
        zero_nan: p.zero_nan,
        scores: Sizes { m, k, n, transposed: !p.keys_turned, scale: p.scale },
        mixed: Sizes { m, k: n, n: width, transposed: p.values_turned, scale: 1.0 },
    };
    let macs = batches.saturating_mul(m).saturating_mul(n).saturating_mul(k + width);
    let threads = if macs < SERIAL_MACS { 1 } else { pool.threads() };
    let words: usize = call.parts().iter().sum();
    scratch.panels.resize_with(scratch.panels.len().max(threads), Vec::new);
    scratch.panels[..threads].iter_mut().try_for_each(|memory| grow(memory, words))?;
    let memories = SharedRows::new(&mut scratch.panels);
    let out = SharedRows::new(out);
    // Threads share a batch's rows where there are fewer batches than threads.
    let tiles = m.div_ceil(shape.rows());
    let total = if batches < threads { batches * tiles } else { batches };
    let share = total.div_ceil(threads);
    pool.run(threads, &|thread| {
        // SAFETY: the pool runs each index once, so that a memory is one thread's alone.
        let [memory] = (unsafe { memories.part(thread, 1) }) else { return };
        let mut memory = call.split(memory);
        let mut packed = None;
        for task in thread * share..total.min((thread + 1) * share) {
            let (batch, tiles) = match batches < threads {
                true => (task / tiles, task % tiles..task % tiles + 1),
                false => (task, 0..tiles),
            };
            let place = [shape.at[1].place(batch), shape.at[2].place(batch)];
            if packed.replace(place) != Some(place) {
                call.scores.pack_into(&keys[place[0] * n * k..][..n * k], memory.keys);
                call.mixed.pack_into(&values[place[1] * n * width..][..n * width], memory.values);
            }
            for tile in tiles {
                let rows = tile * shape.rows()..m.min((tile + 1) * shape.rows());
                let first = (batch * m + rows.start) * width;
                // SAFETY: each tile of a batch is one thread's alone.
                let out = unsafe { out.part(first, rows.len() * width) };
                call.rows(batch, rows.start, &mut memory, out);
            }
        }
    });
    Ok(())
}
