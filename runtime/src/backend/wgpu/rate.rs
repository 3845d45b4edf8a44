//! How fast the device reads its memory, beside which decoding is judged.

use std::time::Instant;

use super::buffers::Slice;
use super::device::Gpu;
use super::pipelines::Pipelines;
use super::record::Pending;
use super::shaders::Shader;
use crate::error::Result;

/// Bytes that are read: more than caches hold, where a shader sees so many.
const BYTES: u64 = 512 << 20;
/// Bytes that a group of the shader reads.
const GROUP: u64 = 256 * 16 * 16;
/// How long a reading takes about, in seconds, and how many there are.
const LONG: f64 = 0.05;
const TIMES: usize = 5;

/// Bytes a second, the most of some readings.
///
/// # Errors
/// Those of the device.
pub(super) fn read_rate(gpu: &Gpu, pipelines: &Pipelines) -> Result<f64> {
    let limits = &gpu.limits;
    let most = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
    let bytes = BYTES.min(most) / GROUP * GROUP;
    let words = gpu.buffer("sweep", bytes as usize, wgpu::BufferUsages::STORAGE)?;
    let out = gpu.buffer("swept", 4, wgpu::BufferUsages::STORAGE)?;
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let params = gpu.buffer("parameters", 4, usage)?;
    gpu.queue.write_buffer(&params, 0, &((bytes / 16) as u32).to_le_bytes());
    let pipeline = pipelines.get(gpu, &[Shader::Sweep])?.remove(0);
    let dispatch = gpu.scoped(|| {
        let pending = Pending {
            shader: Shader::Sweep,
            offset: 0,
            bytes: 16,
            bindings: vec![Slice::whole(&words), Slice::whole(&out)],
            grid: [(bytes / GROUP) as u32, 1, 1],
        };
        pending.bind(&gpu.device, pipeline, &params)
    })?;
    let seconds = |passes: usize| -> Result<f64> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            (0..passes).for_each(|_| dispatch.replay(&mut pass));
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.wait(gpu.queue.submit([commands]))?;
        Ok(start.elapsed().as_secs_f64())
    };
    // The first fills the memory, the second tells how many passes take long.
    seconds(1)?;
    let passes = (LONG / seconds(1)?).clamp(1.0, 1000.0) as usize;
    let mut best = f64::MAX;
    for _ in 0..TIMES {
        best = best.min(seconds(passes)? / passes as f64);
    }
    Ok(bytes as f64 / best)
}
