//! A mixture of experts: MLPs of which each token uses those that its router ranks first.

use super::route::{Routed, Routing};
use super::sort;
use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::linear::{LinearArgs, LinearScratch, linear};
use crate::packed::Packed;
use crate::pool::Pool;
use crate::table::Kernels;
use crate::{grow, vec_bytes};
use limbeck_plan::{Activation, MoeMlp};
use std::ops::Range;

/// The operands of [`moe_mlp`]; see [`limbeck_plan::MoeMlp`] for the formula.
#[derive(Debug)]
pub struct MoeMlpArgs<'a> {
    /// What the op's step says.
    pub params: &'a MoeMlp,
    /// `[T, K]`.
    pub x: &'a [f32],
    /// `[T, experts]`.
    pub logits: &'a [f32],
    /// `[experts H1, K]`.
    pub w1: Packed<'a>,
    /// `[experts M, H]`.
    pub w2: Packed<'a>,
    /// `[T, M]`.
    pub residual: Option<&'a [f32]>,
    /// Of the site.
    pub weight: f64,
    /// At least 0.
    pub price: f32,
    /// Ranks to keep in the place of the router's choice, `[T]`; -1 leaves a token free.
    pub forced: Option<&'a [i32]>,
    /// How many ranks each token keeps, `[T]`.
    pub choice: &'a mut [i32],
    /// `[T, M]`.
    pub out: &'a mut [f32],
}

/// Memory that [`moe_mlp`] works in; grows to the largest call and is then reused.
#[derive(Debug, Default)]
pub struct MoeScratch {
    linear: LinearScratch,
    /// `[experts]`.
    taken: Vec<bool>,
    load: Vec<usize>,
    /// `[T, top_k]`: expert and weight by token and rank.
    expert: Vec<i32>,
    weight: Vec<f32>,
    /// Token and rank in the order of the experts, where each expert's end, and where each token's
    /// rank went.
    order: Vec<usize>,
    ends: Vec<usize>,
    place: Vec<usize>,
    /// An expert's `[rows, K]` and `[rows, H]`.
    x: Vec<f32>,
    hidden: Vec<f32>,
    /// `[T top_k, M]`, in the order of the experts.
    y: Vec<f32>,
}

impl MoeScratch {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let floats = [&self.weight, &self.x, &self.hidden, &self.y];
        let indices = [&self.load, &self.order, &self.ends, &self.place];
        self.linear.bytes()
            + vec_bytes(&self.taken)
            + vec_bytes(&self.expert)
            + floats.map(vec_bytes).iter().sum::<usize>()
            + indices.map(vec_bytes).iter().sum::<usize>()
    }

    /// Makes room for up to `rows` rows with these weights, so that they do not allocate.
    pub fn reserve(&mut self, rows: usize, params: &MoeMlp, w1: &Packed<'_>, w2: &Packed<'_>) {
        let (experts, ranks) = (params.experts.max(1), rows.saturating_mul(params.top_k));
        grow(&mut self.taken, experts);
        grow(&mut self.load, experts);
        grow(&mut self.expert, ranks);
        grow(&mut self.weight, ranks);
        grow(&mut self.order, ranks);
        grow(&mut self.place, ranks);
        grow(&mut self.ends, experts.saturating_add(1));
        grow(&mut self.hidden, rows.saturating_mul(w2.cols()));
        grow(&mut self.y, ranks.saturating_mul(w2.rows() / experts));
        if rows > 1 {
            grow(&mut self.x, rows.saturating_mul(w1.cols()));
        }
        self.linear.reserve_acts(rows, w1.cols().max(w2.cols()));
    }
}

impl MoeMlpArgs<'_> {
    /// Rows of `w1` and of `w2` that an expert has.
    pub(crate) fn expert_rows(&self) -> (usize, usize) {
        let experts = self.params.experts.max(1);
        (self.w1.rows() / experts, self.w2.rows() / experts)
    }

    /// Checks what the linears will not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let MoeMlp { experts, top_k, gated, .. } = *self.params;
        if !(1..=experts).contains(&top_k) || i32::try_from(experts).is_err() {
            return Err(Error::shape(format!("{top_k} of {experts} experts cannot be used")));
        }
        let (h1, m) = self.expert_rows();
        let hidden = self.w2.cols().saturating_mul(if gated { 2 } else { 1 });
        if h1 != hidden || h1 * experts != self.w1.rows() || m * experts != self.w2.rows() {
            let (w1, w2) = (self.w1.rows(), self.w2.rows());
            let message = format!("weights of {w1} and {w2} rows are not {experts} experts");
            return Err(Error::shape(message));
        }
        let rows = self.choice.len();
        check_len("the experts' input", self.x.len(), rows.saturating_mul(self.w1.cols()))?;
        check_len("the router's logits", self.logits.len(), rows.saturating_mul(experts))?;
        check_len("the experts' result", self.out.len(), rows.saturating_mul(m))?;
        if let Some(residual) = self.residual {
            check_len("the residual", residual.len(), self.out.len())?;
        }
        let Some(forced) = self.forced else { return Ok(()) };
        check_len("the forced choices", forced.len(), rows)?;
        let known = |k: &i32| *k < 0 || (1..=top_k).contains(&(*k as usize));
        match forced.iter().find(|k| !known(k)) {
            Some(k) => Err(Error::range(format!("{k} of {top_k} ranks cannot be kept"))),
            None => Ok(()),
        }
    }

    /// What a rank's share of the first must reach.
    pub(crate) fn charge(&self) -> f32 {
        (f64::from(self.price) * self.weight / self.params.top_k as f64) as f32
    }
}

/// Computes `out` and `choice`, and gives the number of experts that some token used.
///
/// Each expert runs as two plain linears over its rows of the weights and the tokens that use it. A
/// token's results are added in the order of its ranks, so that its bits do not depend on the other
/// tokens, unless there is a capacity. No other expert's weights are read.
///
/// # Errors
/// `Shape` when the operands do not fit each other or an expert is not whole tiles of 16 rows,
/// `Format` for weights in row layout, `Range` for a forced choice outside `1..=top_k`.
pub fn moe_mlp(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut MoeScratch,
    args: MoeMlpArgs<'_>,
) -> Result<usize, Error> {
    args.check()?;
    let (rows, params) = (args.choice.len(), args.params);
    let (experts, ranks) = (params.experts, rows * params.top_k);
    scratch.reserve(rows, params, &args.w1, &args.w2);
    let routing =
        Routing { params, logits: args.logits, charge: args.charge(), forced: args.forced };
    let MoeScratch { taken, load, expert, weight, order, ends, place, .. } = scratch;
    let expert = &mut expert[..ranks];
    let routed =
        Routed { choice: &mut *args.choice, expert: &mut *expert, weight: &mut weight[..ranks] };
    routing.run(routed, &mut taken[..experts], &mut load[..experts]);
    expert.iter_mut().for_each(|e| *e = (*e).min(experts as i32));
    sort(expert, &mut order[..ranks], &mut ends[..=experts]);
    for (at, rank) in order[..ranks].iter().enumerate() {
        place[*rank] = at;
    }
    let mut run = Run { kernels, pool, args: &args, scratch };
    let (mut start, mut used) = (0, 0);
    for index in 0..experts {
        let end = run.scratch.ends[index];
        if start < end {
            used += 1;
            run.compute(index, start..end)?;
        }
        start = end;
    }
    let m = args.expert_rows().1;
    let MoeScratch { expert, weight, place, y, .. } = &*scratch;
    let residual = args.residual;
    SharedRows::new(args.out).for_each_chunk(pool, m, |first, part| {
        for (row, out) in part.chunks_exact_mut(m).enumerate() {
            let token = first / m + row;
            out.fill(0.0);
            for rank in token * params.top_k..(token + 1) * params.top_k {
                if expert[rank] < experts as i32 {
                    let (weight, y) = (weight[rank], &y[place[rank] * m..][..m]);
                    out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
                }
            }
            if let Some(residual) = residual {
                out.iter_mut().zip(&residual[token * m..]).for_each(|(out, r)| *out += r);
            }
        }
    });
    Ok(used)
}

struct Run<'a, 'b> {
    kernels: &'a Kernels,
    pool: &'a Pool,
    args: &'a MoeMlpArgs<'b>,
    scratch: &'a mut MoeScratch,
}

impl Run<'_, '_> {
    /// The tokens `order[range]`, which all use this expert.
    fn compute(&mut self, expert: usize, range: Range<usize>) -> Result<(), Error> {
        let Run { kernels, pool, args, scratch } = self;
        let MoeScratch { linear: linears, order, x, hidden, y, .. } = &mut **scratch;
        let (params, cols, count) = (args.params, args.w1.cols(), range.len());
        let (h1, m) = args.expert_rows();
        let tokens = order[range.clone()].iter().map(|rank| rank / params.top_k);
        let first = order[range.start] / params.top_k;
        let last = order[range.end - 1] / params.top_k;
        let x = if last - first + 1 == count {
            &args.x[first * cols..][..count * cols]
        } else {
            let x = &mut x[..count * cols];
            for (x, token) in x.chunks_exact_mut(cols).zip(tokens) {
                x.copy_from_slice(&args.x[token * cols..][..cols]);
            }
            x
        };
        let hidden = &mut hidden[..count * args.w2.cols()];
        let up = LinearArgs {
            x,
            norm: None,
            factors: None,
            w: args.w1.row_range(expert * h1..(expert + 1) * h1)?,
            bias: None,
            activation: params.activation,
            gated: params.gated,
            precise: false,
            residual: None,
            out: hidden,
        };
        linear(kernels, pool, linears, up)?;
        let down = LinearArgs {
            x: hidden,
            norm: None,
            factors: None,
            w: args.w2.row_range(expert * m..(expert + 1) * m)?,
            bias: None,
            activation: Activation::Identity,
            gated: false,
            precise: false,
            residual: None,
            out: &mut y[range.start * m..range.end * m],
        };
        linear(kernels, pool, linears, down)
    }
}
