//! The pipelines that shaders become when they are first needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::Gpu;
use super::kept::Kept;
use super::shaders::Access::Read;
use super::shaders::Shader;
use crate::error::{Error, ErrorKind, Result};

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
    kept: Option<Kept>,
}

impl Pipelines {
    /// None yet; what drivers make of them is kept in this folder, where there is one.
    pub fn new(gpu: &Gpu, folder: Option<&Path>) -> Pipelines {
        let kept = folder.and_then(|folder| Kept::open(gpu, folder));
        Pipelines { made: Mutex::default(), kept }
    }

    /// The pipelines of these shaders, made at their first use.
    ///
    /// # Errors
    /// Those of the device's compiler.
    pub fn get(&self, gpu: &Gpu, shaders: &[Shader]) -> Result<Vec<Arc<Pipeline>>> {
        let (found, more) = self.get_or_make(gpu, shaders)?;
        if more {
            self.kept.iter().for_each(Kept::save);
        }
        Ok(found)
    }

    /// The pipelines, and whether any of them were made.
    fn get_or_make(&self, gpu: &Gpu, shaders: &[Shader]) -> Result<(Vec<Arc<Pipeline>>, bool)> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        for shader in shaders {
            if !made.contains_key(shader) && !missing.contains(shader) {
                missing.push(*shader);
            }
        }
        if !missing.is_empty() {
            let cache = self.kept.as_ref().map(|kept| &kept.cache);
            for pipeline in side_by_side(gpu, &missing, cache)? {
                made.insert(pipeline.shader, Arc::new(pipeline));
            }
        }
        let found = shaders.iter().map(|shader| made.get(shader).cloned());
        let found: Option<Vec<_>> = found.collect();
        let found = found.ok_or_else(|| Error::new(ErrorKind::Backend, "a pipeline is missing"))?;
        Ok((found, !missing.is_empty()))
    }
}

/// Makes pipelines on as many threads as the machine has cores: drivers compile on the thread that asks.
fn side_by_side(
    gpu: &Gpu,
    shaders: &[Shader],
    cache: Option<&wgpu::PipelineCache>,
) -> Result<Vec<Pipeline>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Pipeline>> {
        let mut made = Vec::new();
        while let Some(shader) = shaders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let pipeline = gpu.scoped(|| make(gpu, *shader, cache));
            made.push(pipeline.map_err(|e| e.at(format!("shader {shader:?}")))?);
        }
        Ok(made)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(shaders.len());
    std::thread::scope(|scope| {
        // A thread that does not start leaves its work to the others.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mut made = work();
        for other in others {
            let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            made = made.and_then(|mut made| {
                made.extend(more?);
                Ok(made)
            });
        }
        made
    })
}

/// The checks that shaders run with: all but a count of loops, which keeps drivers from unrolling them.
fn checks() -> wgpu::ShaderRuntimeChecks {
    let mut checks = wgpu::ShaderRuntimeChecks::checked();
    checks.force_loop_bounding = false;
    checks
}

fn module(device: &wgpu::Device, text: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    let checks = checks();
    #[cfg(test)]
    let checks = super::tests::checks::checks(checks);
    // SAFETY: each loop of the backend's shaders counts by a fixed step up to a bound that it does not change, or
    // halves a number down to 0, and so ends: bounds are constants, parameters that the host wrote, and words of the
    // call, all of them numbers of elements of what one binding holds, from which a step does not wrap. Other checks
    // are left out in tests alone, to see that the shaders need none.
    #[allow(unsafe_code, reason = "loops that are counted are not unrolled")]
    unsafe {
        device.create_shader_module_trusted(text, checks)
    }
}

fn make(gpu: &Gpu, shader: Shader, cache: Option<&wgpu::PipelineCache>) -> Pipeline {
    let device = &gpu.device;
    let label = format!("{shader:?}");
    let module = module(
        device,
        wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(shader.source(gpu.sums).into()),
        },
    );
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
        cache,
    });
    Pipeline { shader, pipeline, layout }
}
