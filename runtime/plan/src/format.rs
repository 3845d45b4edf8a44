//! How a weight's bytes are laid out: values (the number format) and layout (their order) as
//! separate properties. The packing itself lives in `limbeck-kernels`; this file owns the sizes.

use serde::{Deserialize, Serialize};

/// Input channels that share one scale in the quantised formats, but for [`Values::Q8w`].
pub const QUANT_BLOCK: usize = 32;
/// Input channels that share one scale in [`Values::Q8w`].
pub const WIDE_BLOCK: usize = 2 * QUANT_BLOCK;
/// Rows in one tile of [`Layout::Panels`].
pub const PANEL_ROWS: usize = 16;
/// Rows in one tile of [`Layout::Quads`].
pub const QUAD_ROWS: usize = 8;
/// Rows of a tile of [`Layout::Channels`] and of [`Layout::Columns`] come in runs of this.
pub const CHANNEL_RUN: usize = 32;
/// Most rows of a tile of [`Layout::Channels`].
const MAX_CHANNEL_TILE: usize = 1024;
/// Most rows of a tile of [`Layout::Columns`].
const MAX_COLUMN_TILE: usize = 4096;
/// Rows of each kind that alternate in a gated weight (see [`crate::Linear::gated`]).
pub const GATE_GROUP: usize = 8;

/// The number format of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// Signed 8-bit integers `q`, one f16 scale `d` per block: `w = d * q`, `q` in -127..=127
    /// (-128 only where a source format had it).
    Q8,
    /// As `Q8`, with blocks of [`WIDE_BLOCK`] columns, in weights and in the activations that meet them:
    /// fewer scales for each product of integers.
    Q8w,
    /// Unsigned 4-bit integers `q`, one f16 scale `d` per block: `w = d * (q - 8)`.
    Q4,
    /// Unsigned 4-bit integers `q`, one f16 scale `d` and one f16 minimum `m` per block:
    /// `w = d * q + m`.
    Q4m,
}

/// The order in which a weight's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Row-major, no padding. Floats only.
    Row,
    /// Tiles of [`PANEL_ROWS`] rows, row count padded with zeros: for each tile, for each column,
    /// the tile's values of that column, contiguous. Floats only.
    Panels,
    /// Tiles of [`QUAD_ROWS`] rows, rows padded with zeros and columns padded to whole blocks
    /// ([`Values::block`]): for each tile, for each block of columns, one record.
    ///
    /// With `r` the row within the tile, `c` the column within the block, `quad = c / 4` and
    /// `e = c % 4`, a record is:
    /// - `Q8`: 256 bytes, byte `quad * 32 + r * 4 + e`; then 8 f16 scales (one per row);
    /// - `Q8w`: the same with 512 bytes;
    /// - `Q4`, `Q4m`: 128 bytes, byte `(quad % 4) * 32 + r * 4 + e`, low nibble for quads 0..4,
    ///   high nibble for quads 4..8; then 8 f16 scales; for `Q4m` then 8 f16 minima.
    Quads,
    /// Tiles of [`PackFormat::tile_rows`], so that an input channel's values are contiguous and a
    /// channel that is not needed need not be read. All values but `F32` and `Q8w`; rows padded with zeros to
    /// [`CHANNEL_RUN`] and columns to [`QUANT_BLOCK`]: for each tile, for each block of 32 columns,
    /// one record. For `F16` it is, for each of the columns, the tile's values in order.
    ///
    /// For quantised values, with `W` the tile's rows, a record is, for each of the 32 columns, `W / 2` bytes of values
    /// (`W` for `Q8`); then `W` f16 scales; for `Q4m` then `W` f16 minima. The rows of a tile are cut
    /// into groups of 128, the last of `32 L` where fewer are left (else `L = 4`), and of a column's
    /// bytes each group has `16 L` (`32 L` for `Q8`): with `l < L`, `j < 4` and `t < 4`, byte
    /// `16 l + 4 j + t` holds row `4 L j + 4 l + t` of the group, and the row `16 L` after that is in
    /// the byte's high nibble; for `Q8` in the byte `16 L` further on. Four columns interleaved byte
    /// by byte then give lanes of four in the order of rows.
    Channels,
    /// As [`Layout::Channels`] of `F16`, which alone has it, but in higher tiles: what a channel left out saves
    /// depends on how much of it lies together.
    Columns,
}

/// A pack format: values and layout of a two-dimensional weight `[rows, cols]`
/// (for a linear, `rows` are outputs and `cols` inputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackFormat {
    /// Number format.
    pub values: Values,
    /// Storage order.
    pub layout: Layout,
}

impl Values {
    /// Whether values share scales by block.
    pub fn is_quantised(self) -> bool {
        matches!(self, Values::Q8 | Values::Q8w | Values::Q4 | Values::Q4m)
    }

    /// Columns that share one scale, where values are quantised.
    pub fn block(self) -> usize {
        if self == Values::Q8w { WIDE_BLOCK } else { QUANT_BLOCK }
    }

    /// Short name as printed for people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Values::F32 => "f32",
            Values::F16 => "f16",
            Values::Q8 => "q8",
            Values::Q8w => "q8w",
            Values::Q4 => "q4",
            Values::Q4m => "q4m",
        }
    }

    /// Bytes of one float value, `None` for quantised formats.
    pub fn float_bytes(self) -> Option<usize> {
        match self {
            Values::F32 => Some(4),
            Values::F16 => Some(2),
            _ => None,
        }
    }

    /// Quads of bytes that a row has in one [`Layout::Quads`] record.
    pub fn quads(self) -> usize {
        match self {
            Values::Q8 | Values::Q8w => self.block() / 4,
            _ => QUANT_BLOCK / 8,
        }
    }

    /// Bytes of one [`Layout::Quads`] record (8 rows of a block), `None` for floats.
    pub fn quad_record_bytes(self) -> Option<usize> {
        match self {
            Values::Q8 => Some(272),
            Values::Q8w => Some(528),
            Values::Q4 => Some(144),
            Values::Q4m => Some(160),
            _ => None,
        }
    }
}

impl Values {
    /// Bytes of one row of a [`Layout::Channels`] record (32 columns), `None` where there is none. Those of
    /// [`Layout::Columns`] are the same.
    pub fn channel_row_bytes(self) -> Option<usize> {
        match self {
            Values::F16 => Some(64),
            Values::Q8 => Some(34),
            Values::Q4 => Some(18),
            Values::Q4m => Some(20),
            _ => None,
        }
    }
}

impl PackFormat {
    /// Row-major f32: vectors (norm weights, biases, frequency tables).
    pub const F32_ROW: PackFormat = PackFormat { values: Values::F32, layout: Layout::Row };

    /// The layout in which a linear's weight of these values is stored.
    pub fn linear(values: Values) -> PackFormat {
        let layout = if values.is_quantised() { Layout::Quads } else { Layout::Panels };
        PackFormat { values, layout }
    }

    /// The layout in which channels of a weight of these values can be left out, `None` where there is none.
    pub fn channels(values: Values) -> Option<PackFormat> {
        values.channel_row_bytes()?;
        let layout = if values.is_quantised() { Layout::Channels } else { Layout::Columns };
        Some(PackFormat { values, layout })
    }

    /// [`PackFormat::channels`] of the same values, for a weight in [`PackFormat::linear`]'s layout; `None`
    /// for another, and where there are no such channels.
    pub fn in_channels(self) -> Option<PackFormat> {
        PackFormat::channels(self.values).filter(|_| self == PackFormat::linear(self.values))
    }

    /// Whether the values of an input channel lie together.
    pub fn by_channel(self) -> bool {
        matches!(self.layout, Layout::Channels | Layout::Columns)
    }

    /// Rows of each tile of a weight of `rows` in which channels lie together; the last tile has what is left,
    /// rounded up to [`CHANNEL_RUN`]. In [`Layout::Channels`] there is an even number of tiles, as equal as can be, of
    /// at most 1,024 rows: then a channel's run within a tile is several cache lines, and two threads share evenly. In
    /// [`Layout::Columns`] there are as few as can be, of at most 4,096 rows, and threads share the channels.
    pub fn tile_rows(self, rows: usize) -> usize {
        let tiles = match self.layout {
            Layout::Columns => rows.div_ceil(MAX_COLUMN_TILE).max(1),
            _ => rows.div_ceil(2 * MAX_CHANNEL_TILE).max(1) * 2,
        };
        rows.div_ceil(tiles).max(1).next_multiple_of(CHANNEL_RUN)
    }

    /// Bytes that `rows x cols` take in this format; `None` when the combination does not exist
    /// (quantised rows, float quads, f32 or q8w channels, other columns than f16) or the size overflows.
    pub fn byte_len(self, rows: usize, cols: usize) -> Option<usize> {
        match self.layout {
            Layout::Row => rows.checked_mul(cols)?.checked_mul(self.values.float_bytes()?),
            Layout::Panels => rows
                .checked_next_multiple_of(PANEL_ROWS)?
                .checked_mul(cols)?
                .checked_mul(self.values.float_bytes()?),
            Layout::Columns if self.values != Values::F16 => None,
            Layout::Channels | Layout::Columns => rows
                .checked_next_multiple_of(CHANNEL_RUN)?
                .checked_mul(cols.div_ceil(QUANT_BLOCK))?
                .checked_mul(self.values.channel_row_bytes()?),
            Layout::Quads => rows
                .div_ceil(QUAD_ROWS)
                .checked_mul(cols.div_ceil(self.values.block()))?
                .checked_mul(self.values.quad_record_bytes()?),
        }
    }
}

impl std::fmt::Display for PackFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layout = match self.layout {
            Layout::Row => "row",
            Layout::Panels => "panels",
            Layout::Quads => "quads",
            Layout::Channels => "channels",
            Layout::Columns => "columns",
        };
        write!(f, "{}/{layout}", self.values.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_pad_rows_and_columns() {
        let q4 = PackFormat::linear(Values::Q4);
        assert_eq!(q4.byte_len(8, 32), Some(144));
        assert_eq!(q4.byte_len(9, 33), Some(144 * 4));
        assert_eq!(PackFormat::linear(Values::Q8w).byte_len(9, 65), Some(528 * 4));
        assert_eq!(PackFormat::linear(Values::F16).byte_len(17, 3), Some(32 * 3 * 2));
        assert_eq!(PackFormat::F32_ROW.byte_len(3, 5), Some(60));
        let channels = PackFormat { values: Values::Q4m, layout: Layout::Channels };
        assert_eq!(channels.byte_len(33, 33), Some(64 * 2 * 20));
    }

    #[test]
    fn channel_tiles_are_even_and_bounded() {
        let channels = PackFormat { values: Values::F16, layout: Layout::Channels };
        for (rows, tile) in [(1, 32), (64, 32), (576, 288), (960, 480), (3072, 768), (1536, 768)] {
            assert_eq!(channels.tile_rows(rows), tile, "{rows} rows");
        }
        assert_eq!(channels.tile_rows(49152), 1024);
        assert_eq!(channels.tile_rows(1030), 544);
    }

    #[test]
    fn columns_are_whole_up_to_a_height() {
        let columns = PackFormat::channels(Values::F16).unwrap();
        assert_eq!(columns.to_string(), "f16/columns");
        for (rows, tile) in [(1, 32), (576, 576), (3072, 3072), (4096, 4096), (9728, 3264)] {
            assert_eq!(columns.tile_rows(rows), tile, "{rows} rows");
        }
        assert_eq!(columns.byte_len(33, 33), Some(64 * 2 * 64));
        let bad = PackFormat { values: Values::Q8, ..columns };
        assert_eq!(bad.byte_len(32, 32), None);
    }

    #[test]
    fn impossible_or_huge_formats_have_no_size() {
        let bad = PackFormat { values: Values::Q8, layout: Layout::Row };
        assert_eq!(bad.byte_len(8, 32), None);
        let bad = PackFormat { values: Values::F32, layout: Layout::Channels };
        assert_eq!(bad.byte_len(8, 32), None);
        assert_eq!(PackFormat::F32_ROW.byte_len(usize::MAX, 2), None);
    }
}
