//! The attention op.

use crate::attention::{AttentionArgs, Qkv, Span, check_spans};
use crate::error::Error;
use crate::norm::NormArgs;
use limbeck_plan::{Attention, NormKind, Rope, RopeStyle};

/// See [`crate::attention()`]; with a cache, keys and values are written to it and read back as
/// stored.
///
/// # Errors
/// As there.
pub fn attention(mut args: AttentionArgs<'_>) -> Result<(), Error> {
    let p = args.params;
    let total = args.check()?;
    check_spans(&args, total)?;
    let (dim, kv_width) = (p.head_dim, p.kv_heads * p.head_dim);
    let q_width = p.heads * dim;
    args.out.fill(0.0);
    for span in args.spans {
        let rows: Vec<(Vec<f32>, Vec<f32>, Vec<f32>)> = (0..span.rows)
            .map(|i| {
                let row = span.first_row + i;
                let (q, k, v) = split(args.qkv, row, q_width, kv_width);
                let position = span.start + i;
                let q = prepare(p, &q, args.q_norm, args.inv_freq, position)?;
                let k = prepare(p, &k, args.k_norm, args.inv_freq, position)?;
                Ok((q, k, v))
            })
            .collect::<Result<_, Error>>()?;
        for head in 0..p.kv_heads {
            let (keys, values) = stored(&mut args, span, head, &rows)?;
            let before = keys.len() - rows.len();
            for (i, (q, _, _)) in rows.iter().enumerate() {
                let end = if p.causal { before + i + 1 } else { before + span.keys };
                let start = match p.window {
                    Some(window) if p.causal => end.saturating_sub(window),
                    _ => 0,
                };
                let group = p.heads / p.kv_heads;
                for h in head * group..(head + 1) * group {
                    let at = (span.first_row + i) * q_width + h * dim;
                    let q = &q[h * dim..][..dim];
                    let out = &mut args.out[at..at + dim];
                    attend(p, q, &keys[start..end], &values[start..end], out);
                }
            }
        }
    }
    Ok(())
}

fn split(qkv: Qkv<'_>, row: usize, q: usize, kv: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let part = |x: &[f32], at: usize, len: usize| x[at..at + len].to_vec();
    match qkv {
        Qkv::Fused(x) => {
            let at = row * (q + 2 * kv);
            (part(x, at, q), part(x, at + q, kv), part(x, at + q + kv, kv))
        }
        Qkv::Separate { q: x, k, v } => {
            (part(x, row * q, q), part(k, row * kv, kv), part(v, row * kv, kv))
        }
    }
}

/// Norm and rotation of each head of a row.
fn prepare(
    p: &Attention,
    x: &[f32],
    weight: Option<&[f32]>,
    inv_freq: Option<&[f32]>,
    position: usize,
) -> Result<Vec<f32>, Error> {
    let mut out = x.to_vec();
    if let (Some(eps), Some(weight)) = (p.qk_norm_eps, weight) {
        let norm = NormArgs { kind: NormKind::Rms, weight, bias: None, eps };
        super::norm(x, &norm, &mut out)?;
    }
    if let (Some(rope), Some(inv_freq)) = (&p.rope, inv_freq) {
        for head in out.chunks_exact_mut(p.head_dim) {
            turn(rope, head, inv_freq, position);
        }
    }
    Ok(out)
}

fn turn(rope: &Rope, head: &mut [f32], inv_freq: &[f32], position: usize) {
    for (i, f) in inv_freq.iter().enumerate() {
        let (a, b) = match rope.style {
            RopeStyle::Half => (i, i + rope.rotary_dim / 2),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let angle = f64::from(position as f32 * f);
        let (sin, cos) = angle.sin_cos();
        let (sin, cos) = (sin * f64::from(rope.factor), cos * f64::from(rope.factor));
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        head[a] = (x * cos - y * sin) as f32;
        head[b] = (y * cos + x * sin) as f32;
    }
}

/// Keys and values of one head by position, the span's own included, as stored.
#[allow(clippy::type_complexity, reason = "keys and values, each a list of vectors")]
fn stored(
    args: &mut AttentionArgs<'_>,
    span: &Span,
    head: usize,
    rows: &[(Vec<f32>, Vec<f32>, Vec<f32>)],
) -> Result<(Vec<Vec<f32>>, Vec<Vec<f32>>), Error> {
    let dim = args.params.head_dim;
    let part = |x: &[f32]| x[head * dim..][..dim].to_vec();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    match (&mut args.cache, span.sequence) {
        (Some((cache, layer)), Some(seq)) => {
            for (i, (_, k, v)) in rows.iter().enumerate() {
                cache.write(seq, *layer, head, span.start + i, &part(k), &part(v))?;
            }
            for position in 0..span.start + rows.len() {
                let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
                cache.read(seq, *layer, head, position, &mut key, &mut value)?;
                keys.push(key);
                values.push(value);
            }
        }
        _ => {
            for (_, k, v) in rows {
                keys.push(part(k));
                values.push(part(v));
            }
        }
    }
    Ok((keys, values))
}

fn attend(p: &Attention, q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], out: &mut [f32]) {
    let scores: Vec<f64> = keys
        .iter()
        .map(|key| {
            let dot: f64 = q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let score = dot * f64::from(p.scale);
            match p.softcap.map(f64::from) {
                Some(cap) => cap * (score / cap).tanh(),
                None => score,
            }
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (d, out) in out.iter_mut().enumerate() {
        let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * f64::from(v[d])).sum();
        *out = if total == 0.0 { 0.0 } else { (sum / total) as f32 };
    }
}
