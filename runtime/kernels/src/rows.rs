//! Ops that pick or reduce whole rows: embedding, select_rows, pool.

use crate::elementwise::SharedRows;
use crate::error::{Error, check_len};
use crate::packed::Packed;
use crate::pool::Pool;
use limbeck_plan::Pooling;

/// A run of rows of a call that belong to one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first row.
    pub first: usize,
    /// How many, at least 1.
    pub count: usize,
}

/// Gathers rows of a table: `ids [T] -> out [T, H]`, multiplied by `scale`.
///
/// # Errors
/// `Range` when an id is negative or not below the table's rows, `Shape` when `out` does not fit.
pub fn embedding(
    pool: &Pool,
    ids: &[i32],
    table: &Packed<'_>,
    scale: f32,
    out: &mut [f32],
) -> Result<(), Error> {
    let cols = table.cols();
    check_len("the embedding's result", out.len(), ids.len().saturating_mul(cols))?;
    if let Some((at, id)) = ids
        .iter()
        .enumerate()
        .find(|(_, id)| usize::try_from(**id).map_or(true, |id| id >= table.rows()))
    {
        let rows = table.rows();
        return Err(Error::range(format!("id {id} at {at} is outside a table of {rows} rows")));
    }
    let shared = SharedRows::new(out);
    shared.for_each_chunk(pool, cols, |first, out| {
        let ids = &ids[first / cols..];
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            // Rows lie anywhere in memory: the next one comes while this one is unpacked.
            if let Some(next) = ids.get(i + 1) {
                table.prefetch(*next as usize);
            }
            table.unpack(ids[i] as usize, out);
            if scale != 1.0 {
                out.iter_mut().for_each(|v| *v *= scale);
            }
        }
    });
    Ok(())
}

/// Copies the named rows of `x [T, cols]` to `out [rows, cols]`.
///
/// # Errors
/// `Range` when there is no such row, `Shape` when `out` does not fit.
pub fn select_rows(x: &[f32], cols: usize, rows: &[usize], out: &mut [f32]) -> Result<(), Error> {
    check_len("the selected rows", out.len(), rows.len().saturating_mul(cols))?;
    let have = x.len().checked_div(cols).unwrap_or(0);
    if let Some(row) = rows.iter().find(|row| **row >= have) {
        return Err(Error::range(format!("row {row} of {have} was selected")));
    }
    if cols > 0 {
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
            out.copy_from_slice(&x[row * cols..][..cols]);
        }
    }
    Ok(())
}

/// Reduces each sequence's valid rows of `x [T, cols]` to one row of `out [sequences, cols]`, and
/// divides it by its Euclidean norm (at least 1e-12) when `normalise` is set.
///
/// # Errors
/// `Range` when a sequence is empty or reaches past `x`, `Shape` when `out` does not fit.
pub fn pool_sequences(
    pooling: Pooling,
    normalise: bool,
    x: &[f32],
    cols: usize,
    sequences: &[Rows],
    out: &mut [f32],
) -> Result<(), Error> {
    check_len("the pooled rows", out.len(), sequences.len().saturating_mul(cols))?;
    let have = x.len().checked_div(cols).unwrap_or(0);
    let fits =
        |s: &Rows| s.count > 0 && s.first.checked_add(s.count).is_some_and(|end| end <= have);
    if let Some(s) = sequences.iter().find(|s| !fits(s)) {
        return Err(Error::range(format!(
            "a sequence of {} rows from row {} does not lie within {have} rows",
            s.count, s.first
        )));
    }
    if cols == 0 {
        return Ok(());
    }
    for (s, out) in sequences.iter().zip(out.chunks_exact_mut(cols)) {
        let rows = &x[s.first * cols..][..s.count * cols];
        match pooling {
            Pooling::Cls => out.copy_from_slice(&rows[..cols]),
            Pooling::Last => out.copy_from_slice(&rows[(s.count - 1) * cols..]),
            Pooling::Mean => {
                out.fill(0.0);
                for row in rows.chunks_exact(cols) {
                    out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
                }
                let count = s.count as f32;
                out.iter_mut().for_each(|o| *o /= count);
            }
        }
        if normalise {
            let squares: f64 = out.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let length = squares.sqrt().max(1e-12) as f32;
            out.iter_mut().for_each(|o| *o /= length);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::packed::pack_rows;
    use limbeck_plan::{PackFormat, Values};

    #[test]
    fn embedding_reads_every_format_and_refuses_bad_ids() {
        for values in [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m] {
            let data: Vec<f32> = (0..9 * 33).map(|i| (i % 16) as f32 - 8.0).collect();
            let format = PackFormat::linear(values);
            let mut bytes = Vec::new();
            pack_rows(format, 33, &data, &mut bytes).unwrap();
            let table = Packed::new(format, 9, 33, &bytes).unwrap();
            let mut out = [f32::NAN; 66];
            embedding(&Pool::new(1), &[8, 0], &table, 2.0, &mut out).unwrap();
            let mut row = [0.0; 33];
            for (id, got) in [8, 0].iter().zip(out.chunks(33)) {
                table.unpack_row(*id, &mut row).unwrap();
                assert!(got.iter().zip(row).all(|(g, r)| *g == r * 2.0));
            }
            // So many that threads share them.
            let ids: Vec<i32> = (0..600).map(|i| i * 7 % 9).collect();
            let mut many = vec![f32::NAN; ids.len() * 33];
            embedding(&Pool::new(3), &ids, &table, 1.0, &mut many).unwrap();
            for (id, got) in ids.iter().zip(many.chunks(33)) {
                table.unpack_row(*id as usize, &mut row).unwrap();
                assert_eq!(got, row);
            }
            for bad in [-1, 9, i32::MIN, i32::MAX] {
                let e = embedding(&Pool::new(2), &[0, bad], &table, 1.0, &mut out).unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Range);
                assert!(e.to_string().contains(&format!("{bad} at 1")), "{e}");
            }
        }
    }

    #[test]
    fn selecting_and_pooling() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 12.0];
        let mut out = [f32::NAN; 4];
        select_rows(&x, 2, &[2, 0], &mut out).unwrap();
        assert_eq!(out, [5.0, 12.0, 1.0, 2.0]);
        assert_eq!(select_rows(&x, 2, &[3, 0], &mut out).unwrap_err().kind(), ErrorKind::Range);
        let sequences = [Rows { first: 0, count: 2 }, Rows { first: 2, count: 1 }];
        pool_sequences(Pooling::Mean, false, &x, 2, &sequences, &mut out).unwrap();
        assert_eq!(out, [2.0, 3.0, 5.0, 12.0]);
        pool_sequences(Pooling::Last, false, &x, 2, &sequences, &mut out).unwrap();
        assert_eq!(out, [3.0, 4.0, 5.0, 12.0]);
        pool_sequences(Pooling::Cls, true, &x, 2, &sequences, &mut out).unwrap();
        assert!((out[2] - 5.0 / 13.0).abs() < 1e-7 && (out[3] - 12.0 / 13.0).abs() < 1e-7);
        for bad in [Rows { first: 0, count: 0 }, Rows { first: usize::MAX, count: 2 }] {
            let sequences = [bad, bad];
            let e = pool_sequences(Pooling::Cls, true, &x, 2, &sequences, &mut out).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Range);
        }
    }
}
