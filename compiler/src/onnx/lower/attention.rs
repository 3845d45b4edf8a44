//! What works on the rows of sequences: attention and pooling.

use limbeck_plan::{Attention, Dim, OperandId, Pool, Pooling, RopeStyle, Step};

use super::{Lowering, Rows, malformed};
use crate::error::{Error, Result};
use crate::onnx::builder::int;
use crate::onnx::proto::dtype;

/// What is added to scores that are not seen: beyond all scores, and still a number, so that a row that
/// sees nothing gives numbers too.
const UNSEEN: f32 = -1e30;
/// The least norm that a row is divided by.
const LEAST_NORM: f32 = 1e-12;

impl Lowering<'_> {
    /// Rows `[T, cols]` by sequence: `[sequences, longest, cols]`.
    fn by_sequence(&mut self, x: &str, cols: i64) -> Result<String> {
        match &self.rows {
            Rows::Tensors => Err(no_sequences()),
            Rows::Even { batch, length, .. } => {
                let (batch, length) = (batch.clone(), length.clone());
                let cols = self.b.integers(&[cols]);
                let shape = self.joined(&[batch, length, cols], 0);
                Ok(self.b.op("Reshape", &[x, &shape], Vec::new()))
            }
            Rows::Listed { rows, .. } => {
                let rows = rows.clone();
                Ok(self.b.op("Gather", &[x, &rows], Vec::new()))
            }
        }
    }

    /// Rows of an output by sequence, with a last size that is known.
    pub fn apart(&mut self, x: &str, last: &Dim) -> Result<String> {
        let cols = last.as_const().and_then(|n| i64::try_from(n).ok()).ok_or_else(malformed)?;
        self.by_sequence(x, cols)
    }

    /// The way back.
    fn in_rows(&mut self, x: &str, cols: i64) -> Result<String> {
        let flat = self.reshaped(x, &[-1, cols]);
        match &self.rows {
            Rows::Listed { places, .. } => {
                let places = places.clone();
                Ok(self.b.op("Gather", &[&flat, &places], Vec::new()))
            }
            _ => Ok(flat),
        }
    }

    /// Which places are seen, `[sequences, longest]`.
    fn seen(&self) -> Option<String> {
        match &self.rows {
            Rows::Even { mask, .. } => mask.clone(),
            Rows::Listed { mask, .. } => Some(mask.clone()),
            Rows::Tensors => None,
        }
    }

    /// `0, 1, ..` up to the longest sequence, `[longest]`.
    fn positions(&mut self) -> Result<String> {
        let longest = match &self.rows {
            Rows::Tensors => return Err(no_sequences()),
            Rows::Even { length, .. } => length.clone(),
            Rows::Listed { rows, .. } => {
                let rows = rows.clone();
                self.size_of(&rows, 1)
            }
        };
        let axes = self.b.integers(&[0]);
        let longest = self.b.op("Squeeze", &[&longest, &axes], Vec::new());
        let (zero, one) = (self.b.integer(0), self.b.integer(1));
        Ok(self.b.op("Range", &[&zero, &longest, &one], Vec::new()))
    }

    pub(super) fn attention(&mut self, p: &Attention, step: &Step) -> Result<String> {
        let (heads, kv, dim) = (p.heads as i64, p.kv_heads as i64, p.head_dim as i64);
        let mut inputs = step.inputs.iter().copied();
        let mut next = || inputs.next().ok_or_else(malformed);
        let [q, k, v] = if p.fused {
            let all = next()?;
            let all = self.plain(all)?;
            let (first, second) = (heads * dim, (heads + kv) * dim);
            [(0, first), (first, second), (second, second + kv * dim)]
                .map(|(from, to)| self.part(&all, 1, from, to))
        } else {
            let [q, k, v] = [next()?, next()?, next()?];
            [self.plain(q)?, self.plain(k)?, self.plain(v)?]
        };
        let mut q = self.heads(&q, heads, dim)?;
        let mut k = self.heads(&k, kv, dim)?;
        let mut v = self.heads(&v, kv, dim)?;
        if let Some(eps) = p.qk_norm_eps {
            let (of_q, of_k) = (next()?, next()?);
            let (of_q, of_k) = (self.vector(of_q, 0)?, self.vector(of_k, 0)?);
            (q, k) = (self.rms(&q, &of_q, eps), self.rms(&k, &of_k, eps));
        }
        if let Some(rope) = &p.rope {
            let frequencies = next()?;
            let frequencies = self.vector(frequencies, 0)?;
            let rotary = (rope.style, rope.rotary_dim as i64, dim);
            let turn = self.rotation(&frequencies, rope.factor)?;
            (q, k) = (self.rotated(&q, &turn, rotary), self.rotated(&k, &turn, rotary));
        }
        let groups = heads / kv;
        // Queries that share keys lie side by side: `[sequences, kv, groups, longest, dim]`.
        if groups > 1 {
            let apart = |this: &mut Self, x: &str, inner: i64| {
                let shape = this.b.integers(&[0, kv, inner, -1, dim]);
                this.b.op("Reshape", &[x, &shape], Vec::new())
            };
            (q, k, v) = (apart(self, &q, groups), apart(self, &k, 1), apart(self, &v, 1));
        }
        let order: &[i64] = if groups > 1 { &[0, 1, 2, 4, 3] } else { &[0, 1, 3, 2] };
        let k = self.turned(&k, order);
        let scores = self.b.op("MatMul", &[&q, &k], Vec::new());
        let mut scores = self.scaled(scores, p.scale);
        if let Some(cap) = p.softcap {
            scores = self.capped(&scores, cap);
        }
        for hidden in self.hidden(p, order.len())? {
            scores = self.b.op("Add", &[&scores, &hidden], Vec::new());
        }
        let weights = self.b.op("Softmax", &[&scores], vec![int("axis", -1)]);
        let mut y = self.b.op("MatMul", &[&weights, &v], Vec::new());
        if groups > 1 {
            let shape = self.b.integers(&[0, heads, -1, dim]);
            y = self.b.op("Reshape", &[&y, &shape], Vec::new());
        }
        let y = self.turned(&y, &[0, 2, 1, 3]);
        self.in_rows(&y, heads * dim)
    }

    /// Rows `[T, heads dim]` to `[sequences, heads, longest, dim]`.
    fn heads(&mut self, x: &str, heads: i64, dim: i64) -> Result<String> {
        let x = self.by_sequence(x, heads * dim)?;
        let apart = self.reshaped(&x, &[0, 0, heads, dim]);
        Ok(self.turned(&apart, &[0, 2, 1, 3]))
    }

    /// What is added to scores of so many axes: by sequence and key, and by place of query and key.
    fn hidden(&mut self, p: &Attention, rank: usize) -> Result<Vec<String>> {
        let (zero, unseen) = (self.b.number(0.0), self.b.number(UNSEEN));
        let mut hidden = Vec::new();
        if let Some(seen) = self.seen() {
            let between: Vec<i64> = (1..rank as i64 - 1).collect();
            let axes = self.b.integers(&between);
            let seen = self.b.op("Unsqueeze", &[&seen, &axes], Vec::new());
            hidden.push(self.b.op("Where", &[&seen, &zero, &unseen], Vec::new()));
        }
        if p.causal {
            let place = self.positions()?;
            let (last, first) = (self.b.integers(&[1]), self.b.integers(&[0]));
            let query = self.b.op("Unsqueeze", &[&place, &last], Vec::new());
            let key = self.b.op("Unsqueeze", &[&place, &first], Vec::new());
            let mut seen = self.b.op("LessOrEqual", &[&key, &query], Vec::new());
            if let Some(window) = p.window {
                let back = self.b.integer(window as i64);
                let least = self.b.op("Sub", &[&query, &back], Vec::new());
                let near = self.b.op("Greater", &[&key, &least], Vec::new());
                seen = self.b.op("And", &[&seen, &near], Vec::new());
            }
            hidden.push(self.b.op("Where", &[&seen, &zero, &unseen], Vec::new()));
        }
        Ok(hidden)
    }

    /// Cosines and sines of each place, `[longest, rotary / 2]`.
    fn rotation(&mut self, frequencies: &str, factor: f32) -> Result<[String; 2]> {
        let places = self.positions()?;
        let places = self.b.cast(&places, dtype::FLOAT);
        let axes = self.b.integers(&[1]);
        let places = self.b.op("Unsqueeze", &[&places, &axes], Vec::new());
        let angles = self.b.op("Mul", &[&places, frequencies], Vec::new());
        Ok(["Cos", "Sin"].map(|kind| {
            let found = self.b.op(kind, &[&angles], Vec::new());
            self.scaled(found, factor)
        }))
    }

    /// `[sequences, heads, longest, dim]` with the first elements of each head turned.
    fn rotated(
        &mut self,
        x: &str,
        [cos, sin]: &[String; 2],
        (style, rotary, dim): (RopeStyle, i64, i64),
    ) -> String {
        let half = rotary / 2;
        let turning = if rotary == dim { x.to_owned() } else { self.part(x, 3, 0, rotary) };
        let (a, b) = match style {
            RopeStyle::Half => {
                (self.part(&turning, 3, 0, half), self.part(&turning, 3, half, rotary))
            }
            RopeStyle::Interleaved => {
                let pairs = self.reshaped(&turning, &[0, 0, -1, half, 2]);
                let one = |this: &mut Self, at: i64| {
                    let index = this.b.integer(at);
                    this.b.op("Gather", &[&pairs, &index], vec![int("axis", 4)])
                };
                (one(self, 0), one(self, 1))
            }
        };
        let times = |this: &mut Self, x: &str, by: &str| this.b.op("Mul", &[x, by], Vec::new());
        let (ac, bs) = (times(self, &a, cos), times(self, &b, sin));
        let (bc, as_) = (times(self, &b, cos), times(self, &a, sin));
        let first = self.b.op("Sub", &[&ac, &bs], Vec::new());
        let second = self.b.op("Add", &[&bc, &as_], Vec::new());
        let mut parts = match style {
            RopeStyle::Half => vec![first, second],
            RopeStyle::Interleaved => {
                let axes = self.b.integers(&[4]);
                let apart =
                    [first, second].map(|x| self.b.op("Unsqueeze", &[&x, &axes], Vec::new()));
                let pairs = self.joined(&apart, 4);
                vec![self.reshaped(&pairs, &[0, 0, -1, rotary])]
            }
        };
        if rotary < dim {
            parts.push(self.part(x, 3, rotary, dim));
        }
        self.joined(&parts, 3)
    }

    pub(super) fn pool(&mut self, p: &Pool, id: OperandId) -> Result<String> {
        let cols = self.cols(id)?;
        let mut pooled = match self.pixels_of(id) {
            Some(pixels) => self.pool_pixels(p.pooling, id, (pixels, cols))?,
            None => self.pool_rows(p.pooling, id, cols)?,
        };
        if p.normalise {
            let axes = self.b.integers(&[-1]);
            let norm = self.b.op("ReduceL2", &[&pooled, &axes], vec![int("keepdims", 1)]);
            let least = self.b.number(LEAST_NORM);
            let norm = self.b.op("Max", &[&norm, &least], Vec::new());
            pooled = self.b.op("Div", &[&pooled, &norm], Vec::new());
        }
        Ok(pooled)
    }

    /// Of images with as many rows each.
    fn pool_pixels(
        &mut self,
        pooling: Pooling,
        id: OperandId,
        (pixels, cols): (i64, i64),
    ) -> Result<String> {
        if pooling == Pooling::Mean && self.is_image(id) {
            let image = self.image_of(id)?;
            let mean = self.b.op("GlobalAveragePool", &[&image], Vec::new());
            return Ok(self.b.op("Flatten", &[&mean], vec![int("axis", 1)]));
        }
        let x = self.plain(id)?;
        let x = self.reshaped(&x, &[-1, pixels, cols]);
        Ok(match pooling {
            Pooling::Mean => self.mean(&x),
            Pooling::Cls => self.row(&x, 0),
            Pooling::Last => self.row(&x, pixels - 1),
        })
    }

    /// Of sequences, whose rows that are not seen are left out.
    fn pool_rows(&mut self, pooling: Pooling, id: OperandId, cols: i64) -> Result<String> {
        let x = self.plain(id)?;
        let x = self.by_sequence(&x, cols)?;
        let Some(seen) = self.seen() else {
            return Ok(match pooling {
                Pooling::Mean => self.mean(&x),
                Pooling::Cls => self.row(&x, 0),
                Pooling::Last => self.row(&x, -1),
            });
        };
        let seen = self.b.cast(&seen, dtype::FLOAT);
        let places = self.positions()?;
        let places = self.b.cast(&places, dtype::FLOAT);
        let weights = match pooling {
            Pooling::Mean => seen,
            // One for the first or the last row that is seen: rows after others, but none that is hidden.
            Pooling::Cls | Pooling::Last => {
                let (sign, one) = (if pooling == Pooling::Last { 1.0 } else { -1.0 }, 1.0);
                let shift = self.b.number(if sign > 0.0 { one } else { 1e6 });
                let ordered = self.scaled(places, sign);
                let ordered = self.b.op("Add", &[&ordered, &shift], Vec::new());
                let ordered = self.b.op("Mul", &[&ordered, &seen], Vec::new());
                let axes = self.b.integers(&[1]);
                let most = self.b.op("ReduceMax", &[&ordered, &axes], vec![int("keepdims", 1)]);
                let chosen = self.b.op("Equal", &[&ordered, &most], Vec::new());
                self.b.cast(&chosen, dtype::FLOAT)
            }
        };
        let axes = self.b.integers(&[1]);
        let count = self.b.op("ReduceSum", &[&weights, &axes], vec![int("keepdims", 1)]);
        let last = self.b.integers(&[2]);
        let each = self.b.op("Unsqueeze", &[&weights, &last], Vec::new());
        let weighed = self.b.op("Mul", &[&x, &each], Vec::new());
        let sum = self.b.op("ReduceSum", &[&weighed, &axes], vec![int("keepdims", 0)]);
        Ok(self.b.op("Div", &[&sum, &count], Vec::new()))
    }

    fn mean(&mut self, x: &str) -> String {
        let axes = self.b.integers(&[1]);
        self.b.op("ReduceMean", &[x, &axes], vec![int("keepdims", 0)])
    }

    /// One row of each sequence.
    fn row(&mut self, x: &str, index: i64) -> String {
        let index = self.b.integer(index);
        self.b.op("Gather", &[x, &index], vec![int("axis", 1)])
    }
}

fn no_sequences() -> Error {
    Error::unsupported("an entry of tensors has no sequences")
}
