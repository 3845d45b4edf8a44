//! What happens to the products of a linear before they are stored: the sum of two parts, bias,
//! activation or gate, and residual.

use super::task::{Acc, LinearTask, MAX_TILE, UNIT};
use crate::elementwise::SharedRows;
use crate::math;
use crate::simd::{LANES, Lanes, Simd, WideV, Work};
use limbeck_plan::Activation;

/// What happens to the products of a unit.
pub(crate) struct Epilogue<'a> {
    /// Rows of the input that are added to one row of products: 1, or 2 that are neighbours.
    pub parts: usize,
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    pub gated: bool,
    pub residual: Option<&'a [f32]>,
    /// The activation is of the sum with the residual. Not where there are gates.
    pub residual_first: bool,
    /// Columns of `out` and `residual`.
    pub n_out: usize,
    /// The row of `out` and `residual` for each row of products, if not the same.
    pub to: Option<&'a [usize]>,
    pub out: &'a SharedRows<'a>,
}

impl<'a> Epilogue<'a> {
    /// Products that are stored as they are, rows of `n_out`.
    pub fn plain(n_out: usize, out: &'a SharedRows<'a>) -> Self {
        Epilogue {
            parts: 1,
            bias: None,
            activation: Activation::Identity,
            gated: false,
            residual: None,
            residual_first: false,
            n_out,
            to: None,
            out,
        }
    }

    /// Whether outputs lie where products do, and the activation comes before the residual.
    fn is_straight(&self) -> bool {
        !self.gated && !self.residual_first && self.to.is_none()
    }
}

/// What becomes of the products of rows `rows.0..` of the input, `rows.1` of them, with units from
/// `unit` on, of which there are as many as `acc` has. The usual epilogues are loops that ask nothing
/// in between; others are done apart.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
pub(super) unsafe fn finish_tile<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    (row, rows): (usize, usize),
    unit: usize,
    acc: &mut [Acc],
) {
    let e = task.epilogue;
    if e.parts == 2 {
        acc.iter_mut().for_each(|acc| add_parts(&mut acc[..rows]));
    }
    let straight = !S::FALLBACK && (unit + acc.len()) * UNIT <= task.n && e.is_straight();
    // SAFETY: the caller's contract.
    unsafe {
        match (e.activation, e.bias, e.residual) {
            (Activation::Identity, bias, residual) if straight => {
                let whole = Whole { activation: Activation::Identity, bias, residual };
                finish_whole(s, task, (row, rows), unit, acc, whole);
            }
            (Activation::Gelu, Some(bias), None) if straight => {
                let bias = Some(bias);
                let whole = Whole { activation: Activation::Gelu, bias, residual: None };
                finish_whole(s, task, (row, rows), unit, acc, whole);
            }
            _ => s.apart(FinishTile { task, row, rows, unit, acc }),
        }
    }
}

/// What happens to whole units: as much of it as where it is called from knows needs no question.
#[derive(Clone, Copy)]
struct Whole<'a> {
    activation: Activation,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

/// [`finish_tile`] of whole units where outputs lie straight: what is written and read is checked once.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
unsafe fn finish_whole<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    (row, rows): (usize, usize),
    unit: usize,
    acc: &[Acc],
    Whole { activation, bias, residual }: Whole<'_>,
) {
    let e = task.epilogue;
    let (row, count) = if e.parts == 2 { (row / 2, rows / 2) } else { (row, rows) };
    assert!(rows <= MAX_TILE);
    if count == 0 {
        return;
    }
    let (first, outputs) = (unit * UNIT, acc.len() * UNIT);
    // From the first row's outputs to the end of the last row's.
    let (start, len) = (row * e.n_out + first, (count - 1) * e.n_out + outputs);
    let out = e.out.pointer(start, len);
    let residual = residual.map(|residual| residual[start..start + len].as_ptr());
    let bias = bias.map(|bias| bias[first..first + outputs].as_ptr());
    let wide = s.wide();
    for (u, acc) in acc.iter().enumerate() {
        // SAFETY: pointers have the outputs of all rows, `n_out` apart, of which these are this task's
        // alone, and the biases of all units.
        unsafe {
            let bias = bias.map(|bias| wide.load(bias.add(u * UNIT)));
            let mut at = u * UNIT;
            for acc in acc[..rows].iter().step_by(e.parts) {
                let mut v = wide.load(acc.as_ptr());
                if let Some(bias) = bias {
                    v = wide.add(v, bias);
                }
                v = math::apply(wide, activation, v);
                if let Some(residual) = residual {
                    v = wide.add(v, wide.load(residual.add(at)));
                }
                wide.store(out.add(at), v);
                at += e.n_out;
            }
        }
    }
}

/// [`finish_tile`] for a caller that does nothing else, of whole rows of products: their parts are added.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
pub(super) unsafe fn finish_apart<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    row: usize,
    unit: usize,
    acc: &[Acc],
) {
    let rows = task.epilogue.parts;
    // SAFETY: the caller's contract.
    unsafe { s.apart(FinishTile { task, row: row * rows, rows, unit, acc }) }
}

/// See [`finish_tile`].
struct FinishTile<'a, 'b> {
    task: &'a LinearTask<'b>,
    row: usize,
    rows: usize,
    unit: usize,
    acc: &'a [Acc],
}

impl<S: Simd> Work<S> for FinishTile<'_, '_> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        let FinishTile { task, row, rows, unit, acc } = self;
        let e = task.epilogue;
        // SAFETY: outputs of these rows and these units, which are this task's alone.
        unsafe {
            if e.gated {
                return finish_gates(s, task, (row, rows), unit, acc);
            }
            for (row, r) in (row / e.parts..).zip((0..rows).step_by(e.parts)) {
                for (u, acc) in acc.iter().enumerate() {
                    let work = Finish { task, row, unit: unit + u, acc: &acc[r] };
                    finish_unit(s, work, e.activation);
                }
            }
        }
    }
}

/// Adds to each row of sums the one after it.
#[inline(always)]
fn add_parts(acc: &mut [[f32; UNIT]]) {
    for pair in acc.chunks_exact_mut(2) {
        let next = pair[1];
        for (sum, next) in pair[0].iter_mut().zip(next) {
            *sum += next;
        }
    }
}

/// Bias, activation or gate, residual, and the store, for one row of one unit. What one row of a decoder's linears
/// needs is done in place, everything else apart.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    row: usize,
    unit: usize,
    acc: &[f32; UNIT],
) {
    let e = task.epilogue;
    let work = Finish { task, row, unit, acc };
    // SAFETY: the caller's contract.
    unsafe {
        match e.activation {
            Activation::Identity if !S::FALLBACK && e.is_straight() => {
                finish_unit(s, work, Activation::Identity);
            }
            Activation::Silu if !S::FALLBACK && e.gated => finish_unit(s, work, Activation::Silu),
            _ => s.apart(work),
        }
    }
}

struct Finish<'a, 'b> {
    task: &'a LinearTask<'b>,
    row: usize,
    unit: usize,
    acc: &'a [f32; UNIT],
}

impl<S: Simd> Work<S> for Finish<'_, '_> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        let activation = self.task.epilogue.activation;
        // SAFETY: the caller's contract.
        unsafe { finish_unit(s, self, activation) }
    }
}

/// `activation` is the epilogue's, which a caller may know.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
unsafe fn finish_unit<S: Simd>(s: S, work: Finish<'_, '_>, activation: Activation) {
    let Finish { task, row, unit, acc } = work;
    let e = task.epilogue;
    let first = unit * UNIT;
    let sums = biased(s, e, first, acc);
    let row = e.to.map_or(row, |to| to[row]);
    // SAFETY: outputs of this row and unit, which are this task's alone.
    unsafe {
        if e.gated {
            let [gate, up] = s.halves(sums);
            let v = s.mul(math::apply(s, activation, gate), up);
            put(s, e, row * e.n_out + first / 2, LANES, s.join([v, v]));
        } else {
            let (at, count) = (row * e.n_out + first, UNIT.min(task.n - first));
            if e.residual_first {
                let sums = plus_residual(s, e, at, count, sums);
                store(s, e, at, count, math::apply(s.wide(), activation, sums));
            } else {
                put(s, e, at, count, math::apply(s.wide(), activation, sums));
            }
        }
    }
}

/// [`finish_tile`] of a gated linear: two gates, of units or else of rows that follow one another, fill a wide
/// vector.
///
/// # Safety
/// As for [`run`](super::task::run).
#[inline(always)]
unsafe fn finish_gates<S: Simd>(
    s: S,
    task: &LinearTask<'_>,
    (row, rows): (usize, usize),
    unit: usize,
    acc: &[Acc],
) {
    let e = task.epilogue;
    let (row, rows) = if e.parts == 2 { (row / 2, rows / 2) } else { (row, rows) };
    // A tile has one unit or two; those of a row follow one another.
    let both = acc.len() - 1;
    let count = rows << both;
    let place = |i: usize| (row + (i >> both), unit + (i & both));
    let sums = |i: usize| &acc[i & both][(i >> both) * e.parts];
    for i in (0..count).step_by(2) {
        let next = (i + 1).min(count - 1);
        let [gate, up] = s.halves(biased(s, e, place(i).1 * UNIT, sums(i)));
        let [next_gate, next_up] = s.halves(biased(s, e, place(next).1 * UNIT, sums(next)));
        let gates = math::apply(s.wide(), e.activation, s.join([gate, next_gate]));
        let [v, next_v] = s.halves(s.wide().mul(gates, s.join([up, next_up])));
        // SAFETY: the caller's contract.
        unsafe {
            put_gated(s, e, place(i), v);
            if next > i {
                put_gated(s, e, place(next), next_v);
            }
        }
    }
}

/// Stores what the gates of a row and a unit gave, with the residual.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
unsafe fn put_gated<S: Simd>(s: S, e: &Epilogue<'_>, (row, unit): (usize, usize), mut v: S::V) {
    let at = e.to.map_or(row, |to| to[row]) * e.n_out + unit * UNIT / 2;
    // SAFETY: both parts hold 8 values; the rest is the caller's contract.
    unsafe {
        if let Some(residual) = e.residual {
            v = s.add(v, s.load(residual[at..at + LANES].as_ptr()));
        }
        s.store(e.out.part(at, LANES).as_mut_ptr(), v);
    }
}

/// The sums of a unit whose first row of the weight is `first`, and their bias.
#[inline(always)]
fn biased<S: Simd>(s: S, e: &Epilogue<'_>, first: usize, acc: &[f32; UNIT]) -> WideV<S> {
    // SAFETY: there are 16 sums, one for each lane.
    let sums = unsafe { s.wide().load(acc.as_ptr()) };
    let Some(bias) = e.bias else { return sums };
    let mut padded = [0.0; UNIT];
    let bias = match bias.get(first..first + UNIT) {
        Some(whole) => whole.as_ptr(),
        None => {
            let rest = bias.get(first..).unwrap_or(&[]);
            padded[..rest.len()].copy_from_slice(rest);
            padded.as_ptr()
        }
    };
    // SAFETY: both hold 16 values.
    s.wide().add(sums, unsafe { s.wide().load(bias) })
}

/// Stores the first `count` lanes, with the residual, from output `at` on.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
unsafe fn put<S: Simd>(s: S, e: &Epilogue<'_>, at: usize, count: usize, v: WideV<S>) {
    // SAFETY: the caller's contract.
    unsafe { store(s, e, at, count, plus_residual(s, e, at, count, v)) }
}

/// The first `count` lanes with the residual from `at` on.
#[inline(always)]
fn plus_residual<S: Simd>(
    s: S,
    e: &Epilogue<'_>,
    at: usize,
    count: usize,
    v: WideV<S>,
) -> WideV<S> {
    let Some(residual) = e.residual else { return v };
    let residual = &residual[at..at + count];
    if count == UNIT {
        // SAFETY: it holds 16 values.
        return s.wide().add(v, unsafe { s.wide().load(residual.as_ptr()) });
    }
    let [low, high] = s.halves(v);
    let low = s.add(low, s.load_some(residual, 0));
    let high = if count > LANES { s.add(high, s.load_some(residual, LANES)) } else { high };
    s.join([low, high])
}

/// Stores the first `count` lanes from output `at` on.
///
/// # Safety
/// No other thread touches these outputs meanwhile.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, e: &Epilogue<'_>, at: usize, count: usize, v: WideV<S>) {
    // SAFETY: the caller's contract.
    let out = unsafe { e.out.part(at, count) };
    if count == UNIT {
        // SAFETY: it holds 16 values.
        unsafe { s.wide().store(out.as_mut_ptr(), v) };
        return;
    }
    for (i, v) in s.halves(v).into_iter().enumerate().take(count.div_ceil(LANES)) {
        s.store_some(out, i * LANES, v);
    }
}
