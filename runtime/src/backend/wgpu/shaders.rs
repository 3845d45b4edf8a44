//! The shaders, each composed from its parts.

use limbeck_kernels::KvType;
use limbeck_plan::{Layout, PackFormat, Values};

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!("shaders/", $name, ".wgsl"))
    };
}

/// Rows of a call up to which linears run [`Shader::LinearFew`].
pub(super) const FEW_ROWS: usize = 8;

/// What a pipeline computes: one permutation of a shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shader {
    Embedding(PackFormat),
    /// For one row of the call at a time, or four.
    LinearFew(PackFormat, FewRows, Part, Form),
    LinearMany(PackFormat, Part, Form),
    /// Rows of inputs as the two have them with quantised weights where rows are several; so many words of four
    /// columns share a scale.
    Round(u32, Form),
    Norm,
    Elementwise,
    SelectRows,
    Pool,
    Prepare(KvType, Heads),
    Attend(KvType, Heads),
    /// Puts together what [`Shader::Attend`] found of parts of the positions.
    AttendParts,
    Choose,
    Route,
    Capacity,
    Combine,
    Mix,
    /// Images that the call gives, as rows.
    Given,
    /// Ops over windows but dense convolutions.
    Windows,
    GroupedConv(PackFormat),
    ConvTranspose(PackFormat),
    Moves,
    Pad,
    Map,
    MatMul,
    Reduce,
    Softmax,
    GroupNorm,
    Resize,
    /// The most likely tokens of each slice of logits.
    PickSlices,
    /// Those of each row, from those of its slices.
    PickRows,
    /// Masses of slices of logits, and of what lies before the most likely tokens in them.
    PickMasses,
    Gather,
    Lstm,
    /// Channels that are small are left out.
    Keep,
    /// Rows in the order of their keys.
    Sort,
    /// Reads memory, to see how fast.
    Sweep,
}

/// Elements that attention's shaders have room for in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Heads {
    Small,
    Large,
}

impl Heads {
    /// Of so many elements, if there are such.
    pub fn of(elements: usize) -> Option<Heads> {
        [Heads::Small, Heads::Large].into_iter().find(|heads| elements <= heads.most())
    }

    /// The most elements.
    pub fn most(self) -> usize {
        match self {
            Heads::Small => 256,
            Heads::Large => 1024,
        }
    }

    fn source(self) -> &'static str {
        match self {
            Heads::Small => "const MOST: u32 = 256u;\n",
            Heads::Large => "const MOST: u32 = 1024u;\n",
        }
    }
}

/// Which part of its weight a row of a linear meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Whole,
    /// As much as its choice says.
    Limited,
    /// An expert's rows.
    Routed,
    /// All of it; the row is what a window sees of an image.
    Window,
}

impl Part {
    /// What it means for a row, in tiles of rows as they come or in an order.
    fn sources(self, ordered: bool) -> Vec<&'static str> {
        let order = match ordered {
            true => "const ORDERED: bool = true;\n",
            false => "const ORDERED: bool = false;\n",
        };
        match self {
            Part::Whole | Part::Window => vec![wgsl!("plain"), wgsl!("factors")],
            Part::Limited => vec![wgsl!("limited"), wgsl!("sorted"), order],
            Part::Routed => vec![wgsl!("routed"), wgsl!("sorted"), order],
        }
    }

    /// What gives inputs as floats.
    fn input(self) -> &'static str {
        match self {
            Part::Window => wgsl!("window"),
            _ => wgsl!("input"),
        }
    }
}

/// What a linear does beside its products; see `has` in linear.wgsl. It is the shader's own and no parameter: a device
/// reads the text of a dispatch anew where another ran before, and without the branches it is a third as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub flags: u32,
    /// By its number; see `number` in ops/mod.rs.
    pub activation: u32,
}

impl Form {
    /// Forms that have each flag, and each of none.
    #[cfg(test)]
    pub const SAMPLES: [Form; 4] = [
        Form { flags: 0, activation: 0 },
        Form { flags: 0b11_1110_1111, activation: 2 },
        Form { flags: 0b00_0001_0110, activation: 1 },
        Form { flags: 0b00_0100_0100, activation: 3 },
    ];

    fn source(self) -> String {
        let Form { flags, activation } = self;
        format!("const FLAGS: u32 = {flags}u;\nconst ACTIVATION: u32 = {activation}u;\n")
    }
}

/// Rows of a call that a group of [`Shader::LinearFew`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FewRows {
    One,
    Four,
}

impl FewRows {
    pub fn count(self) -> usize {
        match self {
            FewRows::One => 1,
            FewRows::Four => 4,
        }
    }
}

/// How lanes of a group add up what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    Shared,
    /// Those of a subgroup first, where the device has such.
    Subgroups,
}

impl Sums {
    fn source(self) -> &'static str {
        match self {
            Sums::Shared => wgsl!("sums_shared"),
            Sums::Subgroups => wgsl!("sums_subgroups"),
        }
    }
}

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

use Access::{Read, Write};

/// A format of weights that shaders read.
struct Format {
    format: PackFormat,
    /// What gives elements of it.
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
            loads: &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("channels"), wgsl!($loads)],
            few: &[
                wgsl!("weight"),
                wgsl!("rounded"),
                wgsl!("bytes"),
                wgsl!("channels"),
                wgsl!($loads),
                wgsl!("wide"),
                wgsl!("wide_channels"),
            ],
        }
    };
}

const FORMATS: &[Format] = &[
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

/// Formats that [`Shader::LinearFew`] and [`Shader::LinearMany`] read beside these, of whole weights.
const CHANNELS: &[Format] = &[
    Format {
        format: format(Values::F16, Layout::Channels),
        loads: &[wgsl!("channels"), wgsl!("load_channels_f16")],
        few: &[
            wgsl!("weight"),
            wgsl!("channels"),
            wgsl!("load_channels_f16"),
            wgsl!("column_by_row"),
        ],
    },
    channels!(Q8, "channels_q8"),
    channels!(Q4, "channels_q4"),
    channels!(Q4m, "channels_q4m"),
];

const fn format(values: Values, layout: Layout) -> PackFormat {
    PackFormat { values, layout }
}

/// Whether shaders read weights of this format.
pub(super) fn reads(format: PackFormat) -> bool {
    FORMATS.iter().any(|known| known.format == format)
}

/// Whether a call of few rows reads nothing of a weight in this format for a column in which they all are zero.
pub(super) fn skips_zeros(format: PackFormat) -> bool {
    format == self::format(Values::F16, Layout::Channels)
}

/// Whether linears read this format, which holds channels.
pub(super) fn reads_channels(format: PackFormat) -> bool {
    CHANNELS.iter().any(|known| known.format == format)
}

impl Shader {
    /// Every permutation.
    #[cfg(test)]
    pub fn all() -> Vec<Shader> {
        let mut all = vec![Shader::Norm, Shader::Elementwise, Shader::SelectRows, Shader::Pool];
        all.extend([Shader::Choose, Shader::Route, Shader::Capacity, Shader::Combine, Shader::Mix]);
        all.extend([Shader::Given, Shader::Windows, Shader::Moves, Shader::Pad, Shader::Map]);
        all.extend([Shader::MatMul, Shader::Reduce, Shader::Softmax, Shader::GroupNorm]);
        all.extend([Shader::Resize, Shader::Gather, Shader::Lstm, Shader::Keep]);
        all.extend([Shader::PickSlices, Shader::PickRows, Shader::PickMasses, Shader::AttendParts]);
        all.extend([Shader::Sort, Shader::Sweep]);
        all.extend(Form::SAMPLES.map(|form| Shader::Round(8, form)));
        all.extend(Form::SAMPLES.map(|form| Shader::Round(16, form)));
        for Format { format, .. } in FORMATS {
            all.push(Shader::Embedding(*format));
            all.push(Shader::GroupedConv(*format));
            all.push(Shader::ConvTranspose(*format));
            for part in [Part::Whole, Part::Limited, Part::Routed, Part::Window] {
                all.extend(Shader::linears(*format, part));
            }
        }
        for Format { format, .. } in CHANNELS {
            all.extend(Shader::linears(*format, Part::Whole));
        }
        for kv in [KvType::F32, KvType::F16, KvType::Q8] {
            for heads in [Heads::Small, Heads::Large] {
                all.extend([Shader::Prepare(kv, heads), Shader::Attend(kv, heads)]);
            }
        }
        all
    }

    /// Those of linears over such a weight.
    #[cfg(test)]
    fn linears(format: PackFormat, part: Part) -> impl Iterator<Item = Shader> {
        Form::SAMPLES.into_iter().flat_map(move |form| {
            let four = Shader::LinearFew(format, FewRows::Four, part, form);
            let many = Shader::LinearMany(format, part, form);
            let floats = !(format.values.is_quantised() && part == Part::Window);
            [Shader::LinearFew(format, FewRows::One, part, form), many]
                .into_iter()
                .chain(floats.then_some(four))
        })
    }

    /// Whether inputs come as [`Shader::Round`] gives them.
    pub fn takes_bytes(self) -> bool {
        match self {
            Shader::LinearFew(format, FewRows::Four, ..) => format.values.is_quantised(),
            Shader::LinearMany(format, part, _) => {
                format.values.is_quantised() && part != Part::Window
            }
            _ => false,
        }
    }

    /// The storage buffers that it takes, from binding 1 on; binding 0 is the uniform.
    pub fn bindings(self) -> &'static [Access] {
        match self {
            Shader::Embedding(_) | Shader::Gather => &[Read, Read, Write, Write],
            Shader::Elementwise | Shader::SelectRows | Shader::Pool => &[Read, Read, Write],
            Shader::Lstm => &[Read, Read, Read, Read, Read, Read, Write],
            Shader::Keep => &[Read, Read, Read, Read, Write, Write],
            Shader::LinearFew(_, _, Part::Whole, _) if !self.takes_bytes() => {
                &[Read, Read, Read, Read, Read, Write, Read, Read]
            }
            Shader::LinearFew(_, _, Part::Whole | Part::Window, _)
            | Shader::LinearMany(_, Part::Whole | Part::Window, _) => {
                &[Read, Read, Read, Read, Read, Write]
            }
            Shader::Round(..) => &[Write, Read, Read, Read, Read, Read],
            Shader::LinearFew(..) | Shader::LinearMany(..) => {
                &[Read, Read, Read, Read, Read, Write, Read, Write]
            }
            Shader::Choose => &[Read, Read, Read, Read, Write],
            Shader::Route => &[Read, Read, Write, Write],
            Shader::Capacity => &[Write, Write],
            Shader::Combine | Shader::Mix | Shader::Windows => &[Read, Read, Read, Write],
            Shader::Given | Shader::Moves | Shader::Pad | Shader::Sort | Shader::Sweep => {
                &[Read, Write]
            }
            Shader::Reduce | Shader::Softmax | Shader::AttendParts => &[Read, Write],
            Shader::PickSlices | Shader::PickRows => &[Read, Write],
            Shader::MatMul | Shader::Resize | Shader::PickMasses => &[Read, Read, Write],
            Shader::GroupNorm | Shader::ConvTranspose(_) => &[Read, Read, Read, Write],
            Shader::Map => &[Read, Read, Read, Read, Read, Read, Write],
            Shader::GroupedConv(_) => &[Read, Read, Read, Read, Write],
            Shader::Norm => &[Read, Read, Read, Write],
            Shader::Prepare(..) => &[Read, Read, Read, Read, Read, Read, Write, Write],
            Shader::Attend(..) => &[Read, Read, Read, Write],
        }
    }

    /// Its text.
    pub fn source(self, sums: Sums) -> String {
        let mut parts = vec![wgsl!("common")];
        match self {
            Shader::Embedding(format) => {
                parts.extend([wgsl!("embedding"), wgsl!("faults"), wgsl!("weight")]);
                parts.extend(loads(format));
            }
            Shader::LinearFew(format, rows, part, _) => {
                parts.push(match rows {
                    FewRows::One => "const FEW: u32 = 1u;\n",
                    FewRows::Four => "const FEW: u32 = 4u;\n",
                });
                parts.extend([wgsl!("form"), sums.source(), wgsl!("activation"), wgsl!("linear")]);
                parts.extend([wgsl!("linear_few"), size(format)]);
                parts.extend(part.sources(false));
                parts.extend(few(format));
                if format.values.is_quantised() {
                    parts.push(wgsl!("byte_sums"));
                }
                if self.takes_bytes() {
                    parts.push(wgsl!("few_rounded"));
                } else {
                    parts.push(part.input());
                    match part {
                        Part::Whole => parts.extend([wgsl!("prologue"), wgsl!("norm_bindings")]),
                        _ => parts.push(wgsl!("no_prologue")),
                    }
                    if format.values.is_quantised() {
                        parts.extend([wgsl!("magnitudes"), wgsl!("few_bytes")]);
                    } else {
                        parts.push(match skips_zeros(format) {
                            true => "const SKIPS_ZEROS: bool = true;\n",
                            false => "const SKIPS_ZEROS: bool = false;\n",
                        });
                        parts.push(wgsl!("few_floats"));
                    }
                }
            }
            Shader::LinearMany(format, part, _) => {
                parts.extend([wgsl!("form"), wgsl!("activation"), wgsl!("linear")]);
                parts.extend([wgsl!("linear_many"), size(format)]);
                parts.extend(part.sources(true));
                if self.takes_bytes() {
                    parts.push(wgsl!("many_bytes"));
                    parts.extend(few(format));
                } else {
                    parts.push(if format.values.is_quantised() {
                        wgsl!("many_windows")
                    } else {
                        wgsl!("many_floats")
                    });
                    parts.extend([part.input(), wgsl!("weight")]);
                    parts.extend(loads(format));
                }
            }
            Shader::Round(words, _) => {
                parts.push(match words {
                    16 => "const WORDS: u32 = 16u;\n",
                    _ => "const WORDS: u32 = 8u;\n",
                });
                parts.extend([wgsl!("form"), sums.source(), wgsl!("round"), wgsl!("input")]);
                parts.extend([wgsl!("prologue"), wgsl!("magnitudes"), wgsl!("rounded")]);
                parts.push(wgsl!("factors"));
            }
            Shader::Norm => parts.extend([sums.source(), wgsl!("norm")]),
            Shader::Elementwise => parts.extend([wgsl!("activation"), wgsl!("elementwise")]),
            Shader::SelectRows => parts.push(wgsl!("select_rows")),
            Shader::Pool => parts.extend([wgsl!("lanes"), wgsl!("pool")]),
            Shader::Choose => parts.extend([wgsl!("lanes"), wgsl!("nan"), wgsl!("choose")]),
            Shader::Route => parts.extend([wgsl!("nan"), wgsl!("order"), wgsl!("route")]),
            Shader::Capacity => parts.push(wgsl!("capacity")),
            Shader::Combine => parts.push(wgsl!("combine")),
            Shader::Mix => parts.extend([wgsl!("activation"), wgsl!("mix")]),
            Shader::Given => parts.push(wgsl!("given")),
            Shader::Windows => {
                parts.extend([wgsl!("activation"), wgsl!("nan"), wgsl!("windows")]);
            }
            Shader::Moves => parts.extend([wgsl!("axes"), wgsl!("moves")]),
            Shader::Pad => parts.push(wgsl!("pad")),
            Shader::Map => {
                parts.extend([wgsl!("activation"), wgsl!("nan"), wgsl!("axes"), wgsl!("map")]);
            }
            Shader::Gather => parts.extend([wgsl!("axes"), wgsl!("faults"), wgsl!("gather")]),
            Shader::Lstm => parts.extend([wgsl!("activation"), wgsl!("lstm")]),
            Shader::Keep => parts.push(wgsl!("keep")),
            Shader::MatMul => parts.extend([wgsl!("axes"), wgsl!("mat_mul")]),
            Shader::Reduce => {
                parts.extend([wgsl!("lanes"), wgsl!("nan"), wgsl!("axes"), wgsl!("reduce")]);
            }
            Shader::Softmax => parts.extend([wgsl!("lanes"), wgsl!("softmax")]),
            Shader::GroupNorm => parts.extend([wgsl!("activation"), wgsl!("group_norm")]),
            Shader::Resize => parts.push(wgsl!("resize")),
            Shader::PickSlices | Shader::PickRows => {
                parts.extend([sums.source(), wgsl!("nan"), wgsl!("order"), wgsl!("pick")]);
                parts.push(match self {
                    Shader::PickSlices => wgsl!("pick_slice"),
                    _ => wgsl!("pick_row"),
                });
            }
            Shader::PickMasses => parts.push(wgsl!("pick_masses")),
            Shader::Sort => parts.push(wgsl!("sort")),
            Shader::Sweep => parts.push(wgsl!("sweep")),
            Shader::ConvTranspose(format) => {
                parts.extend([wgsl!("conv_transpose"), wgsl!("weight")]);
                parts.extend(loads(format));
            }
            Shader::GroupedConv(format) => {
                parts.extend([wgsl!("activation"), wgsl!("grouped"), wgsl!("weight")]);
                parts.extend(loads(format));
            }
            Shader::Prepare(kv, heads) => parts.extend([
                wgsl!("lanes"),
                heads.source(),
                wgsl!("prepare"),
                match kv {
                    KvType::F32 => wgsl!("store_f32"),
                    KvType::F16 => wgsl!("store_f16"),
                    KvType::Q8 => wgsl!("store_q8"),
                },
            ]),
            Shader::AttendParts => parts.extend([wgsl!("lanes"), wgsl!("attend_parts")]),
            Shader::Attend(kv, heads) => parts.extend([
                sums.source(),
                heads.source(),
                wgsl!("activation"),
                wgsl!("attend"),
                match kv {
                    KvType::F32 => wgsl!("read_f32"),
                    KvType::F16 => wgsl!("read_f16"),
                    KvType::Q8 => wgsl!("read_q8"),
                },
            ]),
        }
        let form = match self {
            Shader::LinearFew(.., form) | Shader::LinearMany(.., form) | Shader::Round(_, form) => {
                form.source()
            }
            _ => String::new(),
        };
        form + &parts.join("\n")
    }
}

/// What is known of a format.
fn known(format: PackFormat) -> Option<&'static Format> {
    FORMATS.iter().chain(CHANNELS).find(|known| known.format == format)
}

/// What gives elements of a weight.
fn loads(format: PackFormat) -> &'static [&'static str] {
    known(format).map_or(&[], |known| known.loads)
}

/// What gives 16 rows of a weight.
fn few(format: PackFormat) -> &'static [&'static str] {
    known(format).map_or(&[], |known| known.few)
}

/// What says how large a part of a weight is.
fn size(format: PackFormat) -> &'static str {
    if format.values.is_quantised() { wgsl!("size_blocks") } else { wgsl!("size_floats") }
}
