//! A weight in a pack format: its bytes as a checked view, one row of it as floats, and the
//! packing of rows into it. The byte layouts are defined in `limbeck_plan::Layout`.

use crate::channels::{ChannelTile, repack_tile};
use crate::error::{Error, ErrorKind};
use crate::quantise::{QuantRows, quantise_rows};
use crate::simd;
use half::f16;
use limbeck_plan::{Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, QUANT_BLOCK, Values};
use std::ops::Range;

/// A two-dimensional weight `[rows, cols]` in a pack format, borrowed from a plan's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    format: PackFormat,
    rows: usize,
    cols: usize,
    /// Columns that the bytes hold, at least `cols`.
    stored: usize,
    bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Checks that `bytes` is exactly `rows x cols` (both at least 1) in `format`. Any alignment
    /// will do; 64 is fastest.
    ///
    /// # Errors
    /// `Format` when the format does not exist or the length is wrong, `Shape` when a dimension
    /// is 0.
    pub fn new(
        format: PackFormat,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, Error> {
        if rows == 0 || cols == 0 {
            return Err(Error::shape(format!("a weight of {rows} x {cols} is empty")));
        }
        let want = byte_len(format, rows, cols)?;
        if bytes.len() != want {
            return Err(Error::new(
                ErrorKind::Format,
                format!(
                    "a weight of {rows} x {cols} in {format} takes {want} bytes, got {}",
                    bytes.len()
                ),
            ));
        }
        Ok(Self { format, rows, cols, stored: cols, bytes })
    }

    /// The first `rows` rows, which are a prefix of the bytes.
    ///
    /// # Errors
    /// `Shape` when they are none, more than there are, or not a multiple of 16 and not all; and
    /// for a part of a weight by channel.
    pub fn first_rows(self, rows: usize) -> Result<Self, Error> {
        if rows == self.rows {
            return Ok(self);
        }
        let channels = self.format.by_channel();
        if rows == 0 || rows > self.rows || !rows.is_multiple_of(PANEL_ROWS) || channels {
            let message = format!("no view of {rows} rows of a weight of {}", self.rows);
            return Err(Error::shape(message));
        }
        let bytes = self.bytes.get(..byte_len(self.format, rows, self.stored)?);
        let bytes = bytes.ok_or_else(|| Error::shape("the weight is cut off"))?;
        Ok(Self { rows, bytes, ..self })
    }

    /// These rows, which are a part of the bytes.
    ///
    /// # Errors
    /// `Shape` when they are none, more than there are, do not start at a multiple of 16 or end at
    /// neither one nor the last row.
    pub fn row_range(self, range: Range<usize>) -> Result<Self, Error> {
        let Range { start, end } = range;
        let whole = |row: usize| row.is_multiple_of(PANEL_ROWS);
        if start >= end || end > self.rows || !whole(start) || !(whole(end) || end == self.rows) {
            let message =
                format!("no view of rows {start}..{end} of a weight of {} rows", self.rows);
            return Err(Error::shape(message));
        }
        let first = if start == 0 { 0 } else { byte_len(self.format, start, self.stored)? };
        let rows = end - start;
        let bytes = self.bytes.get(first..first + byte_len(self.format, rows, self.stored)?);
        let bytes = bytes.ok_or_else(|| Error::shape("the weight is cut off"))?;
        Ok(Self { rows, bytes, ..self })
    }

    /// The first `cols` columns; the bytes still hold all of them.
    ///
    /// # Errors
    /// `Shape` when they are none, more than there are, or not whole blocks and not all; and
    /// for a part of a weight by channel.
    pub fn first_cols(self, cols: usize) -> Result<Self, Error> {
        if cols == self.cols {
            return Ok(self);
        }
        let (channels, block) = (self.format.by_channel(), self.format.values.block());
        if cols == 0 || cols > self.cols || !cols.is_multiple_of(block) || channels {
            let message = format!("no view of {cols} columns of a weight of {}", self.cols);
            return Err(Error::shape(message));
        }
        Ok(Self { cols, ..self })
    }

    /// Columns that the bytes hold: more than [`Packed::cols`] in a view of the first columns.
    pub(crate) fn stored_cols(&self) -> usize {
        self.stored
    }

    /// Pack format.
    pub fn format(&self) -> PackFormat {
        self.format
    }

    /// Rows: outputs of a linear, entries of a table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of a linear, width of a table's entry.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes, in the format's layout.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Writes row `row` as f32 into `out [cols]`.
    ///
    /// # Errors
    /// `Range` when there is no such row, `Shape` when `out` is not `cols` long.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        if row >= self.rows {
            return Err(Error::range(format!("row {row} of a weight of {} rows", self.rows)));
        }
        crate::error::check_len("the unpacked row", out.len(), self.cols)?;
        self.unpack(row, out);
        Ok(())
    }

    /// [`Packed::unpack_row`] of a row that exists, as long as `out` is.
    pub(crate) fn unpack(&self, row: usize, out: &mut [f32]) {
        match self.format.layout {
            Layout::Row => self.unpack_floats(row * self.stored, 1, out),
            Layout::Panels => {
                let first = row / PANEL_ROWS * PANEL_ROWS * self.stored + row % PANEL_ROWS;
                self.unpack_floats(first, PANEL_ROWS, out);
            }
            Layout::Quads => self.unpack_quads(row, out),
            Layout::Channels | Layout::Columns => self.unpack_channels(row, out),
        }
    }

    /// Asks for what [`Packed::unpack`] reads of a row that exists, where that lies together.
    pub(crate) fn prefetch(&self, row: usize) {
        let values = self.format.values;
        let (first, len) = match self.format.layout {
            Layout::Row => {
                let len = self.stored * if values == Values::F16 { 2 } else { 4 };
                (row * len, len)
            }
            Layout::Quads => {
                let len = self.tile_bytes();
                (row / QUAD_ROWS * len, len)
            }
            Layout::Panels | Layout::Channels | Layout::Columns => return,
        };
        let start = self.bytes.as_ptr().wrapping_add(first);
        (0..len).step_by(simd::LINE).for_each(|at| simd::prefetch(start.wrapping_add(at)));
    }

    /// Bytes of a tile of eight rows in quads.
    fn tile_bytes(&self) -> usize {
        let values = self.format.values;
        self.stored.div_ceil(values.block()) * values.quad_record_bytes().unwrap_or(1)
    }

    fn unpack_floats(&self, first: usize, step: usize, out: &mut [f32]) {
        match self.format.values {
            Values::F16 => {
                let (values, _) = self.bytes.as_chunks::<2>();
                spread(&values[first..], step, out, |v| f16::from_le_bytes(v).to_f32());
            }
            _ => {
                let (values, _) = self.bytes.as_chunks::<4>();
                spread(&values[first..], step, out, f32::from_le_bytes);
            }
        }
    }

    fn unpack_quads(&self, row: usize, out: &mut [f32]) {
        let values = self.format.values;
        let record = values.quad_record_bytes().unwrap_or(1);
        let r = row % QUAD_ROWS;
        let tile_bytes = self.tile_bytes();
        let tile = &self.bytes[row / QUAD_ROWS * tile_bytes..][..tile_bytes];
        for (block, out) in tile.chunks_exact(record).zip(out.chunks_mut(values.block())) {
            let half_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let data = values.quads() * 4 * QUAD_ROWS;
            let scale = half_at(data + 2 * r);
            let nibble = |c: usize| {
                let byte = block[(c / 4 % 4) * 32 + r * 4 + c % 4];
                f32::from(if c < 16 { byte & 15 } else { byte >> 4 })
            };
            match values {
                Values::Q8 | Values::Q8w => {
                    let (fours, rest) = out.as_chunks_mut::<4>();
                    let mut quads = block.chunks_exact(4 * QUAD_ROWS).map(|quad| &quad[r * 4..]);
                    for (out, quad) in fours.iter_mut().zip(&mut quads) {
                        for (o, q) in out.iter_mut().zip(&quad[..4]) {
                            *o = scale * f32::from(*q as i8);
                        }
                    }
                    for (o, q) in rest.iter_mut().zip(quads.next().unwrap_or(&[])) {
                        *o = scale * f32::from(*q as i8);
                    }
                }
                Values::Q4m => {
                    let min = half_at(data + 16 + 2 * r);
                    for (c, o) in out.iter_mut().enumerate() {
                        *o = scale * nibble(c) + min;
                    }
                }
                _ => {
                    for (c, o) in out.iter_mut().enumerate() {
                        *o = scale * (nibble(c) - 8.0);
                    }
                }
            }
        }
    }
}

impl Packed<'_> {
    fn unpack_channels(&self, row: usize, out: &mut [f32]) {
        let values = self.format.values;
        let tile_rows = self.format.tile_rows(self.rows);
        let tile = ChannelTile::of(self.format, self.rows, self.stored, row / tile_rows);
        let at = tile.place(row % tile_rows);
        let records = &self.bytes[tile.offset..][..tile.bytes];
        for (record, out) in records.chunks_exact(tile.record).zip(out.chunks_mut(QUANT_BLOCK)) {
            let half_at = |at: usize| f16::from_le_bytes([record[at], record[at + 1]]).to_f32();
            if values == Values::F16 {
                for (c, o) in out.iter_mut().enumerate() {
                    *o = half_at(c * tile.channel() + at.byte);
                }
                continue;
            }
            let scale = half_at(tile.scales() + 2 * at.row);
            for (c, o) in out.iter_mut().enumerate() {
                let byte = record[c * tile.channel() + at.byte];
                let nibble = f32::from(if at.high { byte >> 4 } else { byte & 15 });
                *o = match values {
                    Values::Q8 => scale * f32::from(byte as i8),
                    Values::Q4m => scale * nibble + half_at(tile.mins() + 2 * at.row),
                    _ => scale * (nibble - 8.0),
                };
            }
        }
    }
}

/// Every `step`-th value as f32.
fn spread<T: Copy>(values: &[T], step: usize, out: &mut [f32], of: impl Fn(T) -> f32) {
    if step == 1 {
        out.iter_mut().zip(values).for_each(|(o, v)| *o = of(*v));
    } else {
        out.iter_mut().zip(values.iter().step_by(step)).for_each(|(o, v)| *o = of(*v));
    }
}

pub(crate) fn byte_len(format: PackFormat, rows: usize, cols: usize) -> Result<usize, Error> {
    format.byte_len(rows, cols).ok_or_else(|| {
        Error::new(ErrorKind::Format, format!("there is no weight of {rows} x {cols} in {format}"))
    })
}

/// Appends `rows [n, cols]` in `format` to `out`, whole tiles, the last one padded with zeros.
/// A weight may be packed in several calls when each but the last has a multiple of 16 rows, unless
/// channels lie together in it.
///
/// Quantised values are chosen by [`crate::quantise_rows`].
///
/// # Errors
/// `Shape` when `rows` is not whole rows, `Format` when the format does not exist, `Range` when a
/// quantised format gets a value that is not finite or too large for its f16 scale.
pub fn pack_rows(
    format: PackFormat,
    cols: usize,
    rows: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if cols == 0 || !rows.len().is_multiple_of(cols) {
        return Err(Error::shape(format!("{} values are not rows of {cols}", rows.len())));
    }
    let n = rows.len() / cols;
    let bytes = byte_len(format, n, cols)?;
    match format.layout {
        Layout::Quads => {
            let quantised = quantise_rows(format.values, cols, rows)?;
            return pack_quant_rows(&quantised, out);
        }
        Layout::Channels | Layout::Columns => {
            let other = PackFormat::linear(format.values);
            let mut packed = Vec::new();
            pack_rows(other, cols, rows, &mut packed)?;
            let packed = Packed::new(other, n, cols, &packed)?;
            out.reserve(bytes);
            (0..n.div_ceil(format.tile_rows(n)))
                .try_for_each(|t| repack_tile(&packed, format.layout, t, out))?;
        }
        Layout::Row => {
            out.reserve(bytes);
            rows.iter().for_each(|v| push_float(format.values, *v, out));
        }
        Layout::Panels => {
            out.reserve(bytes);
            for tile in rows.chunks(PANEL_ROWS * cols) {
                for c in 0..cols {
                    for r in 0..PANEL_ROWS {
                        let v = tile.get(r * cols + c).copied().unwrap_or(0.0);
                        push_float(format.values, v, out);
                    }
                }
            }
        }
    }
    Ok(())
}

fn push_float(values: Values, v: f32, out: &mut Vec<u8>) {
    match values {
        Values::F16 => out.extend_from_slice(&f16::from_f32(v).to_le_bytes()),
        _ => out.extend_from_slice(&v.to_le_bytes()),
    }
}

/// Appends already quantised rows to `out` in the quads layout of their values, bit-exactly. The
/// streaming rule of [`pack_rows`] holds.
///
/// # Errors
/// `Shape` when the parts of `rows` do not fit each other, `Range` when a 4-bit value is outside
/// 0..16.
pub fn pack_quant_rows(rows: &QuantRows, out: &mut Vec<u8>) -> Result<(), Error> {
    let n = rows.check()?;
    let block = rows.values.block();
    let blocks = rows.cols.div_ceil(block);
    let record = rows.values.quad_record_bytes().unwrap_or(0);
    out.reserve(n.div_ceil(QUAD_ROWS) * blocks * record);
    for tile in (0..n).step_by(QUAD_ROWS) {
        for b in 0..blocks {
            let q = |r: usize, c: usize| {
                let row = tile + r;
                if row < n { rows.q[(row * blocks + b) * block + c] as u8 } else { 0 }
            };
            let halves = |values: &[f16], out: &mut Vec<u8>| {
                for row in tile..tile + QUAD_ROWS {
                    let v = if row < n { values[row * blocks + b] } else { f16::ZERO };
                    out.extend_from_slice(&v.to_le_bytes());
                }
            };
            for quad in 0..rows.values.quads() {
                for r in 0..QUAD_ROWS {
                    for e in 0..4 {
                        out.push(match rows.values {
                            Values::Q8 | Values::Q8w => q(r, quad * 4 + e),
                            _ => q(r, quad * 4 + e) | q(r, quad * 4 + e + 16) << 4,
                        });
                    }
                }
            }
            halves(&rows.scales, out);
            if rows.values == Values::Q4m {
                halves(&rows.mins, out);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect()
    }

    #[test]
    fn floats_round_trip_in_every_layout() {
        for layout in [Layout::Row, Layout::Panels] {
            for values in [Values::F32, Values::F16] {
                for (rows, cols) in [(1, 1), (16, 3), (17, 33), (5, 31)] {
                    let format = PackFormat { values, layout };
                    let data = ramp(rows * cols);
                    let mut bytes = Vec::new();
                    pack_rows(format, cols, &data, &mut bytes).unwrap();
                    let packed = Packed::new(format, rows, cols, &bytes).unwrap();
                    let mut row = vec![f32::NAN; cols];
                    for r in 0..rows {
                        packed.unpack_row(r, &mut row).unwrap();
                        assert_eq!(row, data[r * cols..][..cols], "{format} row {r}");
                    }
                }
            }
        }
    }

    #[test]
    fn quantised_blocks_survive_bit_exactly() {
        for values in [Values::Q8, Values::Q8w, Values::Q4, Values::Q4m] {
            for (n, cols) in [(1usize, 32usize), (8, 64), (19, 96), (3, 40)] {
                let blocks = n * cols.div_ceil(values.block());
                let range = if matches!(values, Values::Q8 | Values::Q8w) { 256 } else { 16 };
                let rows = QuantRows {
                    values,
                    cols,
                    q: (0..blocks * values.block()).map(|i| (i * 7 % range) as u8 as i8).collect(),
                    scales: (0..blocks).map(|i| f16::from_f32(i as f32 * 0.01 - 0.3)).collect(),
                    mins: match values {
                        Values::Q4m => (0..blocks).map(|i| f16::from_f32(0.5 - i as f32)).collect(),
                        _ => Vec::new(),
                    },
                };
                let mut bytes = Vec::new();
                pack_quant_rows(&rows, &mut bytes).unwrap();
                let format = PackFormat::linear(values);
                let packed = Packed::new(format, n, cols, &bytes).unwrap();
                let mut row = vec![f32::NAN; cols];
                for r in 0..n {
                    packed.unpack_row(r, &mut row).unwrap();
                    for (c, got) in row.iter().enumerate() {
                        assert_eq!(got.to_bits(), rows.value(r, c).to_bits(), "{format} {r} {c}");
                    }
                }
            }
        }
    }

    #[test]
    fn packing_in_pieces_gives_the_same_bytes() {
        for values in [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m] {
            let format = PackFormat::linear(values);
            let data = ramp(37 * 40);
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            pack_rows(format, 40, &data, &mut whole).unwrap();
            for piece in data.chunks(16 * 40) {
                pack_rows(format, 40, piece, &mut pieces).unwrap();
            }
            assert_eq!(whole, pieces);
            assert_eq!(whole.len(), format.byte_len(37, 40).unwrap());
        }
    }

    #[test]
    fn views_of_first_rows_and_columns_have_the_values_of_the_whole() {
        let formats = [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m];
        let linear = formats.map(PackFormat::linear);
        for format in linear.into_iter().chain([PackFormat::F32_ROW]) {
            let mut bytes = Vec::new();
            pack_rows(format, 100, &ramp(40 * 100), &mut bytes).unwrap();
            let whole = Packed::new(format, 40, 100, &bytes).unwrap();
            let (mut all, mut part) = ([0.0; 100], [0.0; 64]);
            let view = whole.first_rows(16).unwrap().first_cols(64).unwrap();
            assert_eq!((view.rows(), view.cols()), (16, 64));
            for row in 0..16 {
                whole.unpack_row(row, &mut all).unwrap();
                view.unpack_row(row, &mut part).unwrap();
                assert_eq!(part, all[..64], "{format} row {row}");
            }
            assert!(view.unpack_row(16, &mut part).is_err());
            for rows in [0, 8, 41, 48] {
                assert_eq!(whole.first_rows(rows).unwrap_err().kind(), ErrorKind::Shape);
            }
            for cols in [0, 16, 101, 128] {
                assert_eq!(whole.first_cols(cols).unwrap_err().kind(), ErrorKind::Shape);
            }
            assert_eq!(whole.first_rows(40).unwrap().first_cols(100).unwrap().bytes(), bytes);
        }
    }

    #[test]
    fn views_of_a_range_of_rows_have_the_values_of_the_whole() {
        let formats = [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m];
        for format in formats.map(PackFormat::linear) {
            let mut bytes = Vec::new();
            pack_rows(format, 100, &ramp(56 * 100), &mut bytes).unwrap();
            let whole = Packed::new(format, 56, 100, &bytes).unwrap();
            let (mut all, mut part) = ([0.0; 100], [0.0; 64]);
            for range in [0..16, 16..48, 48..56, 32..56] {
                let view = whole.row_range(range.clone()).unwrap().first_cols(64).unwrap();
                assert_eq!((view.rows(), view.cols()), (range.len(), 64));
                for (at, row) in range.enumerate() {
                    whole.unpack_row(row, &mut all).unwrap();
                    view.unpack_row(at, &mut part).unwrap();
                    assert_eq!(part, all[..64], "{format} row {row}");
                }
            }
            for (start, end) in [(0, 0), (8, 16), (16, 40), (48, 57), (48, 64), (16, 0)] {
                let kind = whole.row_range(start..end).unwrap_err().kind();
                assert_eq!(kind, ErrorKind::Shape);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let q4 = PackFormat::linear(Values::Q4);
        assert_eq!(Packed::new(q4, 8, 32, &[0; 143]).unwrap_err().kind(), ErrorKind::Format);
        assert_eq!(Packed::new(q4, 0, 32, &[]).unwrap_err().kind(), ErrorKind::Shape);
        let none = PackFormat { values: Values::Q8, layout: Layout::Row };
        assert_eq!(Packed::new(none, 1, 1, &[0]).unwrap_err().kind(), ErrorKind::Format);
        let packed = Packed::new(q4, 8, 32, &[0; 144]).unwrap();
        assert_eq!(packed.unpack_row(8, &mut [0.0; 32]).unwrap_err().kind(), ErrorKind::Range);
        assert_eq!(packed.unpack_row(0, &mut [0.0; 31]).unwrap_err().kind(), ErrorKind::Shape);
        let mut out = Vec::new();
        assert_eq!(pack_rows(q4, 3, &[0.0; 4], &mut out).unwrap_err().kind(), ErrorKind::Shape);
        for bad in [f32::NAN, f32::INFINITY, 1e9] {
            for values in [Values::Q8, Values::Q8w, Values::Q4, Values::Q4m] {
                let e = pack_rows(PackFormat::linear(values), 1, &[bad], &mut out).unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Range);
            }
        }
        assert!(out.is_empty());
        let rows = QuantRows {
            values: Values::Q4,
            cols: 32,
            q: vec![16; 32],
            scales: vec![f16::ONE],
            mins: Vec::new(),
        };
        assert_eq!(pack_quant_rows(&rows, &mut out).unwrap_err().kind(), ErrorKind::Range);
    }
}
