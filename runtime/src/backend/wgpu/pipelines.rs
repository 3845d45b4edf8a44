//! The shaders, each composed from its parts, and the pipelines that they become when first needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use limbeck_kernels::KvType;
use limbeck_plan::{Layout, PackFormat, Values};

use super::device::Gpu;
use crate::error::Result;

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
    Prepare(KvType),
    Attend(KvType),
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
    (format(Values::Q8, Layout::Quads), &[wgsl!("rounded"), wgsl!("quads"), wgsl!("quads_q8")]),
    (format(Values::Q8w, Layout::Quads), &[wgsl!("rounded"), wgsl!("quads"), wgsl!("quads_q8w")]),
    (format(Values::Q4, Layout::Quads), &[wgsl!("rounded"), wgsl!("quads"), wgsl!("quads_q4")]),
    (format(Values::Q4m, Layout::Quads), &[wgsl!("rounded"), wgsl!("quads"), wgsl!("quads_q4m")]),
];

const fn format(values: Values, layout: Layout) -> PackFormat {
    PackFormat { values, layout }
}

/// Whether shaders read weights of this format.
pub(super) fn reads(format: PackFormat) -> bool {
    FORMATS.iter().any(|(known, _)| *known == format)
}

impl Shader {
    /// Every permutation.
    #[cfg(test)]
    pub fn all() -> Vec<Shader> {
        let mut all = vec![Shader::Norm, Shader::Elementwise, Shader::SelectRows, Shader::Pool];
        all.extend([Shader::Choose, Shader::Route, Shader::Capacity, Shader::Combine, Shader::Mix]);
        all.extend([Shader::Given, Shader::Windows, Shader::Moves, Shader::Pad, Shader::Map]);
        all.extend([Shader::MatMul, Shader::Reduce, Shader::Softmax, Shader::GroupNorm]);
        all.extend([Shader::Resize, Shader::Pick]);
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
        for kv in [KvType::F32, KvType::F16, KvType::Q8] {
            all.extend([Shader::Prepare(kv), Shader::Attend(kv)]);
        }
        all
    }

    /// The storage buffers that it takes, from binding 1 on; binding 0 is the uniform.
    pub fn bindings(self) -> &'static [Access] {
        match self {
            Shader::Embedding(_) | Shader::Elementwise | Shader::SelectRows | Shader::Pool => {
                &[Read, Read, Write]
            }
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
            Shader::Prepare(_) => &[Read, Read, Read, Read, Read, Read, Write, Write],
            Shader::Attend(_) => &[Read, Read, Read, Write],
        }
    }

    /// Its text.
    pub fn source(self) -> String {
        let mut parts = vec![wgsl!("common")];
        match self {
            Shader::Embedding(format) => {
                parts.extend([wgsl!("embedding"), wgsl!("weight")]);
                parts.extend(loads(format));
            }
            Shader::LinearFew(format, rows, part) => {
                let rows = match rows {
                    FewRows::One => "const FEW: u32 = 1u;\n",
                    FewRows::Four => "const FEW: u32 = 4u;\n",
                };
                parts.extend([rows, wgsl!("activation"), wgsl!("linear"), wgsl!("linear_few")]);
                parts.push(match format.layout {
                    Layout::Quads => wgsl!("few_quads"),
                    _ => wgsl!("few_floats"),
                });
                parts.extend(part.sources());
                parts.push(wgsl!("weight"));
                parts.extend(loads(format));
            }
            Shader::LinearMany(format, part) => {
                parts.extend([wgsl!("activation"), wgsl!("linear"), wgsl!("linear_many")]);
                parts.push(match format.layout {
                    Layout::Quads => wgsl!("many_quads"),
                    _ => wgsl!("many_floats"),
                });
                parts.extend(part.sources());
                parts.push(wgsl!("weight"));
                parts.extend(loads(format));
            }
            Shader::Norm => parts.push(wgsl!("norm")),
            Shader::Elementwise => parts.extend([wgsl!("activation"), wgsl!("elementwise")]),
            Shader::SelectRows => parts.push(wgsl!("select_rows")),
            Shader::Pool => parts.push(wgsl!("pool")),
            Shader::Choose => parts.push(wgsl!("choose")),
            Shader::Route => parts.push(wgsl!("route")),
            Shader::Capacity => parts.push(wgsl!("capacity")),
            Shader::Combine => parts.push(wgsl!("combine")),
            Shader::Mix => parts.extend([wgsl!("activation"), wgsl!("mix")]),
            Shader::Given => parts.push(wgsl!("given")),
            Shader::Windows => parts.extend([wgsl!("activation"), wgsl!("windows")]),
            Shader::Moves => parts.extend([wgsl!("axes"), wgsl!("moves")]),
            Shader::Pad => parts.push(wgsl!("pad")),
            Shader::Map => parts.extend([wgsl!("activation"), wgsl!("axes"), wgsl!("map")]),
            Shader::MatMul => parts.extend([wgsl!("axes"), wgsl!("mat_mul")]),
            Shader::Reduce => parts.extend([wgsl!("axes"), wgsl!("reduce")]),
            Shader::Softmax => parts.push(wgsl!("softmax")),
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
            Shader::Prepare(kv) => parts.extend([
                wgsl!("prepare"),
                match kv {
                    KvType::F32 => wgsl!("store_f32"),
                    KvType::F16 => wgsl!("store_f16"),
                    KvType::Q8 => wgsl!("store_q8"),
                },
            ]),
            Shader::Attend(kv) => parts.extend([
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
    FORMATS.iter().filter(move |(known, _)| *known == format).flat_map(|(_, parts)| *parts).copied()
}

/// A shader ready to run.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub shader: Shader,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// The pipelines of a device.
#[derive(Debug, Default)]
pub(super) struct Pipelines {
    made: Mutex<HashMap<Shader, Arc<Pipeline>>>,
}

impl Pipelines {
    /// The pipeline of a shader, made at its first use.
    ///
    /// # Errors
    /// Those of the device's compiler.
    pub fn get(&self, gpu: &Gpu, shader: Shader) -> Result<Arc<Pipeline>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = made.get(&shader) {
            return Ok(pipeline.clone());
        }
        let pipeline = gpu
            .scoped(|| Arc::new(make(&gpu.device, shader)))
            .map_err(|e| e.at(format!("shader {shader:?}")))?;
        made.insert(shader, pipeline.clone());
        Ok(pipeline)
    }
}

fn make(device: &wgpu::Device, shader: Shader) -> Pipeline {
    let label = format!("{shader:?}");
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(&label),
        source: wgpu::ShaderSource::Wgsl(shader.source().into()),
    });
    let uniform = std::iter::once(wgpu::BufferBindingType::Uniform);
    let storage = shader
        .bindings()
        .iter()
        .map(|access| wgpu::BufferBindingType::Storage { read_only: *access == Read });
    let entries: Vec<_> = (0..)
        .zip(uniform.chain(storage))
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(&label),
        entries: &entries,
    });
    let whole = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&label),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: Some(&whole),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write what they read.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    Pipeline { shader, pipeline, layout }
}
