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
    LinearFew(PackFormat, FewRows, Part),
    LinearMany(PackFormat, Part),
    Norm,
    Elementwise,
    SelectRows,
    Pool,
    Prepare(KvType, Heads),
    Attend(KvType, Heads),
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
    /// The most likely token of each row of logits.
    Pick,
    Gather,
    Lstm,
    /// Channels that are small are left out.
    Keep,
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
    fn sources(self) -> [&'static str; 2] {
        match self {
            Part::Whole => [wgsl!("plain"), wgsl!("input")],
            Part::Limited => [wgsl!("limited"), wgsl!("input")],
            Part::Routed => [wgsl!("routed"), wgsl!("input")],
            Part::Window => [wgsl!("plain"), wgsl!("window")],
        }
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

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

use Access::{Read, Write};

/// Formats of weights that shaders read, with what reads them.
const FORMATS: &[(PackFormat, &[&str])] = &[
    (
        format(Values::F32, Layout::Row),
        &[wgsl!("rounded"), wgsl!("load_floats"), wgsl!("element_row_f32")],
    ),
    (
        format(Values::F16, Layout::Row),
        &[wgsl!("rounded"), wgsl!("load_floats"), wgsl!("element_row_f16")],
    ),
    (
        format(Values::F32, Layout::Panels),
        &[wgsl!("rounded"), wgsl!("load_floats"), wgsl!("element_panels_f32")],
    ),
    (
        format(Values::F16, Layout::Panels),
        &[wgsl!("rounded"), wgsl!("load_floats"), wgsl!("element_panels_f16")],
    ),
    (
        format(Values::Q8, Layout::Quads),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("quads"), wgsl!("quads_q8")],
    ),
    (
        format(Values::Q8w, Layout::Quads),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("quads"), wgsl!("quads_q8w")],
    ),
    (
        format(Values::Q4, Layout::Quads),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("quads"), wgsl!("quads_q4")],
    ),
    (
        format(Values::Q4m, Layout::Quads),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("quads"), wgsl!("quads_q4m")],
    ),
];

/// Formats that [`Shader::LinearFew`] and [`Shader::LinearMany`] read beside these, of whole weights.
const CHANNELS: &[(PackFormat, &[&str])] = &[
    (format(Values::F16, Layout::Channels), &[wgsl!("channels"), wgsl!("load_channels_f16")]),
    (
        format(Values::Q8, Layout::Channels),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("channels"), wgsl!("channels_q8")],
    ),
    (
        format(Values::Q4, Layout::Channels),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("channels"), wgsl!("channels_q4")],
    ),
    (
        format(Values::Q4m, Layout::Channels),
        &[wgsl!("rounded"), wgsl!("bytes"), wgsl!("channels"), wgsl!("channels_q4m")],
    ),
];

const fn format(values: Values, layout: Layout) -> PackFormat {
    PackFormat { values, layout }
}

/// Whether shaders read weights of this format.
pub(super) fn reads(format: PackFormat) -> bool {
    FORMATS.iter().any(|(known, _)| *known == format)
}

/// Whether linears read this format, which holds channels.
pub(super) fn reads_channels(format: PackFormat) -> bool {
    CHANNELS.iter().any(|(known, _)| *known == format)
}

impl Shader {
    /// Every permutation.
    #[cfg(test)]
    pub fn all() -> Vec<Shader> {
        let mut all = vec![Shader::Norm, Shader::Elementwise, Shader::SelectRows, Shader::Pool];
        all.extend([Shader::Choose, Shader::Route, Shader::Capacity, Shader::Combine, Shader::Mix]);
        all.extend([Shader::Given, Shader::Windows, Shader::Moves, Shader::Pad, Shader::Map]);
        all.extend([Shader::MatMul, Shader::Reduce, Shader::Softmax, Shader::GroupNorm]);
        all.extend([Shader::Resize, Shader::Pick, Shader::Gather, Shader::Lstm, Shader::Keep]);
        for (format, _) in FORMATS {
            all.push(Shader::Embedding(*format));
            all.push(Shader::GroupedConv(*format));
            all.push(Shader::ConvTranspose(*format));
            for part in [Part::Whole, Part::Limited, Part::Routed, Part::Window] {
                all.push(Shader::LinearFew(*format, FewRows::One, part));
                all.push(Shader::LinearFew(*format, FewRows::Four, part));
                all.push(Shader::LinearMany(*format, part));
            }
        }
        for (format, _) in CHANNELS {
            all.push(Shader::LinearFew(*format, FewRows::One, Part::Whole));
            all.push(Shader::LinearFew(*format, FewRows::Four, Part::Whole));
            all.push(Shader::LinearMany(*format, Part::Whole));
        }
        for kv in [KvType::F32, KvType::F16, KvType::Q8] {
            for heads in [Heads::Small, Heads::Large] {
                all.extend([Shader::Prepare(kv, heads), Shader::Attend(kv, heads)]);
            }
        }
        all
    }

    /// The storage buffers that it takes, from binding 1 on; binding 0 is the uniform.
    pub fn bindings(self) -> &'static [Access] {
        match self {
            Shader::Embedding(_) | Shader::Gather => &[Read, Read, Write, Write],
            Shader::Elementwise | Shader::SelectRows | Shader::Pool => &[Read, Read, Write],
            Shader::Lstm => &[Read, Read, Read, Read, Read, Read, Write],
            Shader::Keep => &[Read, Read, Read, Read, Write, Write],
            Shader::LinearFew(_, _, Part::Whole | Part::Window)
            | Shader::LinearMany(_, Part::Whole | Part::Window) => {
                &[Read, Read, Read, Read, Read, Write]
            }
            Shader::LinearFew(..) | Shader::LinearMany(..) => {
                &[Read, Read, Read, Read, Read, Write, Read, Write]
            }
            Shader::Choose => &[Read, Read, Read, Read, Write],
            Shader::Route => &[Read, Read, Write, Write],
            Shader::Capacity => &[Write, Write],
            Shader::Combine | Shader::Mix | Shader::Windows => &[Read, Read, Read, Write],
            Shader::Given | Shader::Moves | Shader::Pad => &[Read, Write],
            Shader::Reduce | Shader::Softmax | Shader::Pick => &[Read, Write],
            Shader::MatMul | Shader::Resize => &[Read, Read, Write],
            Shader::GroupNorm | Shader::ConvTranspose(_) => &[Read, Read, Read, Write],
            Shader::Map => &[Read, Read, Read, Read, Read, Read, Write],
            Shader::GroupedConv(_) => &[Read, Read, Read, Read, Write],
            Shader::Norm => &[Read, Read, Read, Write],
            Shader::Prepare(..) => &[Read, Read, Read, Read, Read, Read, Write, Write],
            Shader::Attend(..) => &[Read, Read, Read, Write],
        }
    }

    /// Its text.
    pub fn source(self) -> String {
        let mut parts = vec![wgsl!("common")];
        match self {
            Shader::Embedding(format) => {
                parts.extend([wgsl!("embedding"), wgsl!("faults"), wgsl!("weight")]);
                parts.extend(loads(format));
            }
            Shader::LinearFew(format, rows, part) => {
                let rows = match rows {
                    FewRows::One => "const FEW: u32 = 1u;\n",
                    FewRows::Four => "const FEW: u32 = 4u;\n",
                };
                parts.extend([rows, wgsl!("activation"), wgsl!("linear"), wgsl!("linear_few")]);
                parts.push(if format.values.is_quantised() {
                    wgsl!("few_bytes")
                } else {
                    wgsl!("few_floats")
                });
                parts.extend(part.sources());
                parts.push(wgsl!("weight"));
                parts.extend(loads(format));
            }
            Shader::LinearMany(format, part) => {
                parts.extend([wgsl!("activation"), wgsl!("linear"), wgsl!("linear_many")]);
                parts.push(if format.values.is_quantised() {
                    wgsl!("many_bytes")
                } else {
                    wgsl!("many_floats")
                });
                parts.extend(part.sources());
                parts.push(wgsl!("weight"));
                parts.extend(loads(format));
            }
            Shader::Norm => parts.extend([wgsl!("lanes"), wgsl!("norm")]),
            Shader::Elementwise => parts.extend([wgsl!("activation"), wgsl!("elementwise")]),
            Shader::SelectRows => parts.push(wgsl!("select_rows")),
            Shader::Pool => parts.extend([wgsl!("lanes"), wgsl!("pool")]),
            Shader::Choose => parts.extend([wgsl!("lanes"), wgsl!("nan"), wgsl!("choose")]),
            Shader::Route => parts.push(wgsl!("route")),
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
            Shader::Pick => parts.push(wgsl!("pick")),
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
            Shader::Attend(kv, heads) => parts.extend([
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
        parts.join("\n")
    }
}

/// What reads a format.
fn loads(format: PackFormat) -> impl Iterator<Item = &'static str> {
    let all = FORMATS.iter().chain(CHANNELS);
    all.filter(move |(known, _)| *known == format).flat_map(|(_, parts)| *parts).copied()
}
