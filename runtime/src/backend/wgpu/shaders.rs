//! The shaders, each composed from its parts.

// Parts lie beside the files that name them.
macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!($name, ".wgsl"))
    };
}

mod formats;
mod text;

use limbeck_kernels::KvType;
use limbeck_plan::PackFormat;
#[cfg(test)]
use limbeck_plan::QUANT_BLOCK;

#[cfg(test)]
use formats::{CHANNELS, FORMATS, Format};
pub(super) use formats::{reads, reads_channels, skips_zeros};

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

/// What a linear does beside its products; see `has` in form.wgsl. It is the shader's own and no parameter: a device
/// reads the text of a dispatch anew where another ran before, and without the branches that is a third as long.
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

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

use Access::{Read, Write};

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
                // Plans have no windows of blocks that share a scale.
                if part != Part::Window || format.values.block() <= QUANT_BLOCK {
                    all.extend(Shader::linears(*format, part));
                }
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
}
