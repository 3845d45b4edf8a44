//! The geometry of weights in which channels lie together ([`PackFormat::by_channel`]), and the repacking of others
//! into them.

use crate::error::{Error, ErrorKind};
use crate::packed::Packed;
use limbeck_plan::{CHANNEL_RUN, Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, QUANT_BLOCK, Values};

/// Rows of a whole group.
pub(crate) const GROUP: usize = 4 * CHANNEL_RUN;

/// One tile of a weight by channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelTile {
    pub first_row: usize,
    /// Rows, a multiple of 32.
    pub width: usize,
    /// Of its first record.
    pub offset: usize,
    /// Of one record, and of all.
    pub record: usize,
    pub bytes: usize,
    values: Values,
}

/// Where a row's values are in each record of its tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub row: usize,
    /// From the start of a channel.
    pub byte: usize,
    /// In the high nibble.
    pub high: bool,
}

impl ChannelTile {
    /// Tile `index` of a weight of `rows x cols`, which it has.
    pub fn of(format: PackFormat, rows: usize, cols: usize, index: usize) -> ChannelTile {
        let values = format.values;
        let row_bytes = values.channel_row_bytes().unwrap_or(0);
        let blocks = cols.div_ceil(QUANT_BLOCK);
        let most = format.tile_rows(rows);
        let first_row = index * most;
        let width = most.min(rows.saturating_sub(first_row).next_multiple_of(CHANNEL_RUN));
        ChannelTile {
            first_row,
            width,
            offset: first_row * row_bytes * blocks,
            record: width * row_bytes,
            bytes: width * row_bytes * blocks,
            values,
        }
    }

    /// Bytes of one channel's values.
    pub fn channel(&self) -> usize {
        channel_bytes(self.values, self.width)
    }

    /// Bytes of one channel in a whole group.
    pub fn group(&self) -> usize {
        channel_bytes(self.values, GROUP)
    }

    /// Whether it is the last one of a weight of `rows`.
    pub fn is_last(&self, rows: usize) -> bool {
        self.first_row + self.width >= rows
    }

    /// Where a record's scales begin.
    pub fn scales(&self) -> usize {
        self.channel() * QUANT_BLOCK
    }

    /// Where a record's minima begin.
    pub fn mins(&self) -> usize {
        self.scales() + 2 * self.width
    }

    /// Groups of 128 rows, the last one of what is left.
    pub fn groups(&self) -> usize {
        self.width.div_ceil(GROUP)
    }

    /// `L` of a group that the tile has.
    pub fn lanes(&self, group: usize) -> usize {
        ((self.width - group * GROUP) / CHANNEL_RUN).min(4)
    }

    /// Where a row of the tile is.
    pub fn place(&self, row: usize) -> Place {
        if self.values == Values::F16 {
            return Place { row, byte: 2 * row, high: false };
        }
        let (group, within) = (row / GROUP, row % GROUP);
        let lanes = self.lanes(group);
        let second = within >= 16 * lanes;
        let low = within - if second { 16 * lanes } else { 0 };
        let (j, lane, t) = (low / (4 * lanes), low % (4 * lanes) / 4, low % 4);
        let byte = group * self.group() + 16 * lane + 4 * j + t;
        match self.values {
            Values::Q8 if second => Place { row, byte: byte + 16 * lanes, high: false },
            Values::Q8 => Place { row, byte, high: false },
            _ => Place { row, byte, high: second },
        }
    }
}

/// Bytes of one channel's values for some rows, whole runs.
pub(crate) fn channel_bytes(values: Values, rows: usize) -> usize {
    match values {
        Values::F32 => 4 * rows,
        Values::F16 => 2 * rows,
        Values::Q8 | Values::Q8w => rows,
        Values::Q4 | Values::Q4m => rows / 2,
    }
}

/// Appends tile `index` of a weight in quads, or in f16 panels, to `out` in the layout `to`, in which channels lie
/// together, value for value.
///
/// # Errors
/// `Format` for a weight that is in neither or a layout that its values do not have, `Range` when it has no such
/// tile.
pub fn repack_tile(
    w: &Packed<'_>,
    to: Layout,
    index: usize,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let format = w.format();
    let (values, rows, cols) = (format.values, w.rows(), w.cols());
    let to = PackFormat { values, layout: to };
    if format.in_channels().is_none() || !to.by_channel() || to.byte_len(rows, cols).is_none() {
        let message = format!("a weight in {format} cannot be repacked into {to}");
        return Err(Error::new(ErrorKind::Format, message));
    }
    if index >= rows.div_ceil(to.tile_rows(rows)) {
        return Err(Error::range(format!("a weight of {rows} rows has no tile {index}")));
    }
    let tile = ChannelTile::of(to, rows, cols, index);
    if values == Values::F16 {
        repack_floats(w, &tile, out);
        return Ok(());
    }
    let quad_record = values.quad_record_bytes().unwrap_or(1);
    let quad_data = channel_bytes(values, QUAD_ROWS) * QUANT_BLOCK;
    let quad_tile = w.stored_cols().div_ceil(QUANT_BLOCK) * quad_record;
    let start = out.len();
    out.resize(start + tile.bytes, 0);
    let last = rows.min(tile.first_row + tile.width);
    for row in tile.first_row..last {
        let at = tile.place(row - tile.first_row);
        let (quads, r) = (&w.bytes()[row / QUAD_ROWS * quad_tile..], row % QUAD_ROWS);
        let records = out[start..].chunks_exact_mut(tile.record);
        for (record, from) in records.zip(quads.chunks_exact(quad_record)) {
            for c in 0..QUANT_BLOCK {
                let q = match values {
                    Values::Q8 => from[c / 4 * 32 + r * 4 + c % 4],
                    _ => from[c / 4 % 4 * 32 + r * 4 + c % 4] >> (c / 16 * 4) & 15,
                };
                record[c * tile.channel() + at.byte] |= if at.high { q << 4 } else { q };
            }
            let mut copy = |to: usize, from_at: usize| {
                record[to..to + 2].copy_from_slice(&from[from_at..from_at + 2]);
            };
            copy(tile.scales() + 2 * at.row, quad_data + 2 * r);
            if values == Values::Q4m {
                copy(tile.mins() + 2 * at.row, quad_data + 2 * (QUAD_ROWS + r));
            }
        }
    }
    Ok(())
}

/// A tile of f16 panels.
fn repack_floats(w: &Packed<'_>, tile: &ChannelTile, out: &mut Vec<u8>) {
    let panel_column = 2 * PANEL_ROWS;
    let start = out.len();
    out.resize(start + tile.bytes, 0);
    let panels = w.bytes().chunks_exact(w.stored_cols() * panel_column);
    let panels = panels.skip(tile.first_row / PANEL_ROWS).take(tile.width / PANEL_ROWS);
    for (p, panel) in panels.enumerate() {
        for (c, values) in panel.chunks_exact(panel_column).enumerate().take(w.cols()) {
            let to = start + c * tile.channel() + p * panel_column;
            out[to..to + panel_column].copy_from_slice(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::pack_rows;

    #[test]
    fn channels_hold_the_values_of_the_quads_they_came_from() {
        let channels = |values| PackFormat { values, layout: Layout::Channels };
        let columns = PackFormat { values: Values::F16, layout: Layout::Columns };
        let quantised = [Values::Q8, Values::Q4, Values::Q4m].map(channels);
        for format in [channels(Values::F16), columns].into_iter().chain(quantised) {
            let values = format.values;
            for (n, cols) in [(1, 32), (33, 64), (100, 40), (288, 32), (576, 96), (1030, 33)] {
                let quads = PackFormat::linear(values);
                let data: Vec<f32> = (0..n * cols).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
                let (mut from, mut to) = (Vec::new(), Vec::new());
                pack_rows(quads, cols, &data, &mut from).unwrap();
                pack_rows(format, cols, &data, &mut to).unwrap();
                let (from, to) = (
                    Packed::new(quads, n, cols, &from).unwrap(),
                    Packed::new(format, n, cols, &to).unwrap(),
                );
                let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
                for r in 0..n {
                    from.unpack_row(r, &mut a).unwrap();
                    to.unpack_row(r, &mut b).unwrap();
                    assert_eq!(a, b, "{format} {n} x {cols} row {r}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_repacked_is_refused() {
        let f32 = PackFormat { values: Values::F32, layout: Layout::Panels };
        let bytes = vec![0; 16 * 32 * 4];
        let packed = Packed::new(f32, 16, 32, &bytes).unwrap();
        let refused = |packed: &Packed<'_>, to, index| {
            repack_tile(packed, to, index, &mut Vec::new()).unwrap_err().kind()
        };
        assert_eq!(refused(&packed, Layout::Channels, 0), ErrorKind::Format);
        let q4 = PackFormat { values: Values::Q4, layout: Layout::Quads };
        let packed = Packed::new(q4, 8, 32, &bytes[..144]).unwrap();
        assert_eq!(refused(&packed, Layout::Channels, 1), ErrorKind::Range);
        assert_eq!(refused(&packed, Layout::Columns, 0), ErrorKind::Format);
        assert_eq!(refused(&packed, Layout::Panels, 0), ErrorKind::Format);
        let channels = PackFormat { values: Values::Q4, layout: Layout::Channels };
        let bytes = vec![0; 32 * 18];
        let packed = Packed::new(channels, 8, 32, &bytes).unwrap();
        assert!(packed.first_rows(16).is_err() && packed.first_cols(16).is_err());
        assert!(packed.first_rows(8).is_ok());
    }
}
