//! A checkpoint's tensor, whatever its file format: rows are read on demand, as f32 or as the
//! quantised values that the file already holds.

use std::ops::Range;

use half::f16;
use limbeck_kernels::QuantRows;
use limbeck_plan::Values;

use super::gguf::BlockType;
use super::gguf::dequantise;
use crate::error::{Error, Result};

/// A view of one tensor in a checkpoint, row-major in Hugging Face order (`[rows, cols]` for a
/// linear's weight, rows being outputs). Reading touches only the bytes of the rows asked for.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    storage: BlockType,
    bytes: &'a [u8],
    order: RowOrder,
    row_bytes: usize,
}

/// How the rows of a stored tensor map to the rows that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As stored.
    Stored,
    /// Undoes the order in which llama-architecture GGUF files store query and key projections.
    /// Within each head of `head_dim` rows the file alternates the two halves
    /// (`permute` in llama.cpp's `conversion/llama.py`); read rows have the first half first.
    Halves {
        /// Rows of one head, even.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that holds row `row`.
    fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::Halves { head_dim } => {
                let half = head_dim / 2;
                let within = row % head_dim;
                row - within + 2 * (within % half) + within / half
            }
        }
    }
}

impl<'a> Tensor<'a> {
    /// A tensor over `bytes`, which must hold exactly the shape's values.
    ///
    /// # Errors
    /// A shape that is empty, has a zero, overflows, does not divide into the storage's
    /// blocks or does not fit the bytes; a row order that does not fit the shape.
    pub fn new(
        name: impl Into<String>,
        shape: Vec<usize>,
        storage: BlockType,
        bytes: &'a [u8],
        order: RowOrder,
    ) -> Result<Tensor<'a>> {
        let name = name.into();
        let refuse =
            |message: String| Err(Error::format(message).at(format_args!("tensor {name}")));
        let Some((&cols, leading)) = shape.split_last() else {
            return refuse("it has no dimensions".into());
        };
        let rows = leading.iter().try_fold(1usize, |rows, &dim| rows.checked_mul(dim));
        let Some(rows) = rows.filter(|&rows| rows > 0 && cols > 0) else {
            return refuse(format!("its shape {shape:?} is empty or too large"));
        };
        if !cols.is_multiple_of(storage.block_values()) {
            return refuse(format!(
                "rows of {cols} values do not divide into {} blocks of {}",
                storage.name(),
                storage.block_values()
            ));
        }
        let row_bytes = (cols / storage.block_values()).checked_mul(storage.block_bytes());
        let Some(row_bytes) =
            row_bytes.filter(|bytes_per_row| bytes_per_row.checked_mul(rows) == Some(bytes.len()))
        else {
            return refuse(format!(
                "its shape {shape:?} in {} does not fill its {} bytes",
                storage.name(),
                bytes.len()
            ));
        };
        if let RowOrder::Halves { head_dim } = order {
            let permuted = if leading.is_empty() { cols } else { rows };
            if head_dim < 2 || !head_dim.is_multiple_of(2) || !permuted.is_multiple_of(head_dim) {
                return refuse(format!(
                    "its shape {shape:?} does not divide into heads of {head_dim}"
                ));
            }
        }
        Ok(Tensor { name, shape, storage, bytes, order, row_bytes })
    }

    /// The tensor's name in Hugging Face order of names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the file stores the values.
    pub fn storage(&self) -> BlockType {
        self.storage
    }

    /// Bytes that the tensor takes in its file.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Product of all dimensions but the last; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// The last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Appends the values of these rows to `out` as f32, `[range.len(), cols]`.
    ///
    /// # Errors
    /// A range beyond [`Tensor::rows`].
    pub fn read_rows(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.check(&range)?;
        if self.shape.len() == 1 {
            // A vector is one row; a row order permutes its values.
            let start = out.len();
            if !range.is_empty() {
                dequantise(self.storage, self.bytes, out);
            }
            if self.order != RowOrder::Stored {
                let stored = out.split_off(start);
                out.extend((0..stored.len()).filter_map(|i| stored.get(self.order.stored(i))));
            }
            return Ok(());
        }
        if self.order == RowOrder::Stored {
            let bytes = range.start * self.row_bytes..range.end * self.row_bytes;
            dequantise(self.storage, self.bytes.get(bytes).unwrap_or_default(), out);
            return Ok(());
        }
        for row in range {
            dequantise(self.storage, self.stored_row(row), out);
        }
        Ok(())
    }

    /// These rows as the quantised values that the file holds, bit for bit; `None` when the
    /// storage has no pack format with the same values (all but `Q4_0`, `Q4_1` and `Q8_0`), for
    /// vectors, and for a range beyond [`Tensor::rows`].
    pub fn quant_rows(&self, range: Range<usize>) -> Option<QuantRows> {
        let values = self.quant_values()?;
        self.check(&range).ok()?;
        let cols = self.cols();
        let mut rows = QuantRows {
            values,
            cols,
            q: Vec::with_capacity(range.len() * cols),
            scales: Vec::with_capacity(range.len() * cols / 32),
            mins: Vec::new(),
        };
        for row in range {
            for block in self.stored_row(row).chunks_exact(self.storage.block_bytes()) {
                push_block(&mut rows, block)?;
            }
        }
        Some(rows)
    }

    /// The values of [`Tensor::quant_rows`], without reading any.
    pub fn quant_values(&self) -> Option<Values> {
        if self.shape.len() < 2 {
            return None;
        }
        match self.storage {
            BlockType::Q4_0 => Some(Values::Q4),
            BlockType::Q4_1 => Some(Values::Q4m),
            BlockType::Q8_0 => Some(Values::Q8),
            _ => None,
        }
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > self.rows() {
            return Err(Error::mismatch(format!(
                "rows {range:?} asked for, but there are {}",
                self.rows()
            ))
            .at(format_args!("tensor {}", self.name)));
        }
        Ok(())
    }

    fn stored_row(&self, row: usize) -> &'a [u8] {
        let start = self.order.stored(row) * self.row_bytes;
        self.bytes.get(start..start + self.row_bytes).unwrap_or_default()
    }
}

/// Appends one block of 32 values: f16 scale, f16 minimum (`Q4m` only), values.
fn push_block(rows: &mut QuantRows, block: &[u8]) -> Option<()> {
    let (scale, mut rest) = block.split_first_chunk()?;
    rows.scales.push(f16::from_le_bytes(*scale));
    if rows.values == Values::Q4m {
        let (min, values) = rest.split_first_chunk()?;
        rows.mins.push(f16::from_le_bytes(*min));
        rest = values;
    }
    if rows.values == Values::Q8 {
        rows.q.extend(rest.iter().map(|q| q.cast_signed()));
    } else {
        rows.q.extend(rest.iter().map(|q| (q & 0xF).cast_signed()));
        rows.q.extend(rest.iter().map(|q| (q >> 4).cast_signed()));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    /// llama.cpp's converter: reshape to [heads, 2, half, cols], swap the middle axes.
    fn converter_order(rows: usize, head_dim: usize) -> Vec<usize> {
        let half = head_dim / 2;
        let mut order = Vec::new();
        for head in 0..rows / head_dim {
            for i in 0..half {
                for part in 0..2 {
                    order.push(head * head_dim + part * half + i);
                }
            }
        }
        order
    }

    #[test]
    fn halves_undo_the_converter() {
        let stored = converter_order(24, 8);
        let bytes = f32_bytes(stored.iter().flat_map(|&row| [row as f32, 0.5]));
        let order = RowOrder::Halves { head_dim: 8 };
        let tensor = Tensor::new("q", vec![24, 2], BlockType::F32, &bytes, order).unwrap();
        let mut read = Vec::new();
        tensor.read_rows(0..24, &mut read).unwrap();
        let rows: Vec<usize> = read.chunks(2).map(|row| row[0] as usize).collect();
        assert_eq!(rows, (0..24).collect::<Vec<_>>());

        let bytes = f32_bytes(stored.iter().map(|&row| row as f32));
        let bias = Tensor::new("b", vec![24], BlockType::F32, &bytes, order).unwrap();
        let mut read = vec![-1.0];
        bias.read_rows(0..1, &mut read).unwrap();
        assert_eq!(read[0], -1.0);
        assert_eq!(read[1..], (0..24).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn any_range_equals_the_whole() {
        let bytes = f32_bytes((0..6 * 5).map(|i| i as f32));
        for order in [RowOrder::Stored, RowOrder::Halves { head_dim: 6 }] {
            let tensor = Tensor::new("t", vec![2, 3, 5], BlockType::F32, &bytes, order).unwrap();
            assert_eq!((tensor.rows(), tensor.cols()), (6, 5));
            let mut whole = Vec::new();
            tensor.read_rows(0..6, &mut whole).unwrap();
            for start in 0..=6 {
                for end in start..=6 {
                    let mut part = Vec::new();
                    tensor.read_rows(start..end, &mut part).unwrap();
                    assert_eq!(part, whole[start * 5..end * 5]);
                }
            }
        }
    }

    #[test]
    fn quantised_rows_give_the_dequantised_values() {
        let mut state = 7u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for storage in [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q8_0] {
            let blocks = 8 * 2;
            let mut bytes: Vec<u8> = (0..blocks * storage.block_bytes()).map(|_| byte()).collect();
            for block in bytes.chunks_mut(storage.block_bytes()) {
                block[..2].copy_from_slice(&f16::from_f32(0.37).to_le_bytes());
                if storage == BlockType::Q4_1 {
                    block[2..4].copy_from_slice(&f16::from_f32(-1.5).to_le_bytes());
                }
            }
            let order = RowOrder::Halves { head_dim: 4 };
            let tensor = Tensor::new("t", vec![8, 64], storage, &bytes, order).unwrap();
            let rows = tensor.quant_rows(1..7).unwrap();
            let mut floats = Vec::new();
            tensor.read_rows(1..7, &mut floats).unwrap();
            assert_eq!(rows.q.len(), floats.len());
            assert_eq!(rows.scales.len(), floats.len() / 32);
            for (i, &float) in floats.iter().enumerate() {
                let d = rows.scales[i / 32].to_f32();
                let q = f32::from(rows.q[i]);
                let value = match rows.values {
                    Values::Q4 => d * (q - 8.0),
                    Values::Q4m => d * q + rows.mins[i / 32].to_f32(),
                    _ => d * q,
                };
                assert_eq!(value.to_bits(), float.to_bits());
            }
        }
    }

    #[test]
    fn impossible_tensors_are_refused_by_name() {
        let bytes = [0u8; 64];
        let new = |shape: Vec<usize>, storage, order| {
            Tensor::new("w", shape, storage, &bytes, order).unwrap_err().to_string()
        };
        let stored = RowOrder::Stored;
        for message in [
            new(vec![], BlockType::F32, stored),
            new(vec![0, 16], BlockType::F32, stored),
            new(vec![usize::MAX, 2, 8], BlockType::F32, stored),
            new(vec![3, 5], BlockType::F32, stored),
            new(vec![2, 16], BlockType::Q8_0, stored),
            new(vec![4, 4], BlockType::F32, RowOrder::Halves { head_dim: 3 }),
            new(vec![4, 4], BlockType::F32, RowOrder::Halves { head_dim: 0 }),
        ] {
            assert!(message.starts_with("tensor w: "), "{message}");
        }
        let tensor = Tensor::new("w", vec![4, 4], BlockType::F32, &bytes, stored).unwrap();
        assert!(tensor.read_rows(2..5, &mut Vec::new()).is_err());
        assert!(tensor.quant_rows(0..1).is_none());
    }
}
