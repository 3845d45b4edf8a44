//! Formats of weights, and the parts of shaders that read them.

use limbeck_plan::{Layout, PackFormat, Values};

/// A format of weights that shaders read.
pub(super) struct Format {
    pub format: PackFormat,
    /// What gives elements of it to other ops than linears.
    loads: &'static [&'static str],
    /// What linears read 8 or 16 rows with.
    few: &'static [&'static str],
}

macro_rules! quads {
    ($values:ident, $loads:literal, $($few:literal),+) => {
        Format {
            format: format(Values::$values, Layout::Quads),
            loads: &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("quads"), wgsl!($loads)],
            few: &[wgsl!("fours"), wgsl!("rounded"), wgsl!("wide"), $(wgsl!($few)),+],
        }
    };
}

macro_rules! floats {
    ($values:ident, $layout:ident, $element:literal, $few:expr) => {
        Format {
            format: format(Values::$values, Layout::$layout),
            loads: &[wgsl!("rounded"), wgsl!("load_floats"), wgsl!($element)],
            few: $few,
        }
    };
}

macro_rules! channels {
    ($values:ident, $loads:literal) => {
        Format {
            format: format(Values::$values, Layout::Channels),
            loads: &[],
            few: &[
                wgsl!("weight"),
                wgsl!("rounded"),
                wgsl!("bytes"),
                wgsl!("tiles_channels"),
                wgsl!("channels"),
                wgsl!($loads),
                wgsl!("wide"),
                wgsl!("wide_channels"),
            ],
        }
    };
}

pub(super) const FORMATS: &[Format] = &[
    floats!(
        F32,
        Row,
        "element_row_f32",
        &[wgsl!("weight"), wgsl!("element_row_f32"), wgsl!("column_by_row")]
    ),
    floats!(
        F16,
        Row,
        "element_row_f16",
        &[wgsl!("weight"), wgsl!("element_row_f16"), wgsl!("column_by_row")]
    ),
    floats!(F32, Panels, "element_panels_f32", &[wgsl!("fours"), wgsl!("column_panels_f32")]),
    floats!(F16, Panels, "element_panels_f16", &[wgsl!("fours"), wgsl!("column_panels_f16")]),
    quads!(Q8, "quads_q8", "wide_bytes", "wide_q8"),
    quads!(Q8w, "quads_q8w", "wide_bytes", "wide_q8w"),
    quads!(Q4, "quads_q4", "wide_q4"),
    quads!(Q4m, "quads_q4m", "wide_q4m"),
];

macro_rules! float_channels {
    ($layout:ident, $tiles:literal) => {
        Format {
            format: format(Values::F16, Layout::$layout),
            loads: &[],
            few: &[
                wgsl!("weight"),
                wgsl!($tiles),
                wgsl!("channels"),
                wgsl!("load_channels_f16"),
                wgsl!("column_by_row"),
            ],
        }
    };
}

/// Formats that `LinearFew` and `LinearMany` read beside these, of whole weights.
pub(super) const CHANNELS: &[Format] = &[
    float_channels!(Columns, "tiles_columns"),
    float_channels!(Channels, "tiles_channels"),
    channels!(Q8, "channels_q8"),
    channels!(Q4, "channels_q4"),
    channels!(Q4m, "channels_q4m"),
];

const fn format(values: Values, layout: Layout) -> PackFormat {
    PackFormat { values, layout }
}

/// Whether shaders read weights of this format.
pub(in crate::backend::wgpu) fn reads(format: PackFormat) -> bool {
    FORMATS.iter().any(|known| known.format == format)
}

/// Whether a call of few rows reads nothing of a weight in this format for a column in which they all are zero.
pub(in crate::backend::wgpu) fn skips_zeros(format: PackFormat) -> bool {
    format.by_channel() && !format.values.is_quantised()
}

/// Whether linears read this format, which holds channels.
pub(in crate::backend::wgpu) fn reads_channels(format: PackFormat) -> bool {
    CHANNELS.iter().any(|known| known.format == format)
}

/// What is known of a format.
fn known(format: PackFormat) -> Option<&'static Format> {
    FORMATS.iter().chain(CHANNELS).find(|known| known.format == format)
}

/// What gives elements of a weight to other ops than linears.
pub(super) fn loads(format: PackFormat) -> &'static [&'static str] {
    known(format).map_or(&[], |known| known.loads)
}

/// What gives 16 rows of a weight.
pub(super) fn few(format: PackFormat) -> &'static [&'static str] {
    known(format).map_or(&[], |known| known.few)
}

/// What says how large a part of a weight is.
pub(super) fn size(format: PackFormat) -> &'static str {
    if format.values.is_quantised() { wgsl!("size_blocks") } else { wgsl!("size_floats") }
}
