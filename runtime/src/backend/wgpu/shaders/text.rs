//! The texts of the shaders.

use limbeck_kernels::KvType;

use super::formats::{few, loads, size, skips_zeros};
use super::{FewRows, Form, Heads, Part, Shader, Sums};

impl Heads {
    fn source(self) -> &'static str {
        match self {
            Heads::Small => "const MOST: u32 = 256u;\n",
            Heads::Large => "const MOST: u32 = 1024u;\n",
        }
    }
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

impl Form {
    fn source(self) -> String {
        let Form { flags, activation } = self;
        format!("const FLAGS: u32 = {flags}u;\nconst ACTIVATION: u32 = {activation}u;\n")
    }
}

impl Sums {
    fn source(self) -> &'static str {
        match self {
            Sums::Shared => wgsl!("sums_shared"),
            Sums::Subgroups => wgsl!("sums_subgroups"),
        }
    }
}

impl Shader {
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
                parts.extend([wgsl!("sixteen"), wgsl!("linear_few"), size(format)]);
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
                parts.extend(few(format));
                if !format.values.is_quantised() {
                    parts.extend([wgsl!("many_floats"), part.input(), wgsl!("sixteen")]);
                } else if self.takes_bytes() {
                    parts.extend([wgsl!("many_bytes"), wgsl!("many_rounded")]);
                } else {
                    parts.extend([wgsl!("many_bytes"), wgsl!("many_windows"), part.input()]);
                    parts.extend([wgsl!("magnitudes"), wgsl!("totals")]);
                }
            }
            Shader::Round(words, _) => {
                parts.push(match words {
                    16 => "const WORDS: u32 = 16u;\n",
                    _ => "const WORDS: u32 = 8u;\n",
                });
                parts.extend([wgsl!("form"), sums.source(), wgsl!("round"), wgsl!("input")]);
                parts.extend([wgsl!("prologue"), wgsl!("magnitudes"), wgsl!("rounded")]);
                parts.extend([wgsl!("totals"), wgsl!("factors")]);
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
