//! What tests put into values before a run, and find behind them after it: NaN, so that what a kernel does not write
//! shows, and what it should not read.

use crate::backend::wgpu::device::Gpu;
use crate::backend::wgpu::pool::GUARD;
use crate::error::Result;

pub fn poison(gpu: &Gpu, slots: &[Option<wgpu::Buffer>]) {
    for buffer in slots.iter().flatten() {
        let nans = vec![f32::NAN; buffer.size() as usize / 4];
        gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&nans));
    }
}

pub fn check(gpu: &Gpu, slots: &[Option<wgpu::Buffer>]) -> Result<()> {
    let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
    let ends = gpu.buffer("guards", slots.len() * GUARD, usage)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let (mut at, bytes) = (0, GUARD as u64);
    for buffer in slots.iter().flatten() {
        encoder.copy_buffer_to_buffer(buffer, buffer.size() - bytes, &ends, at, bytes);
        at += bytes;
    }
    let submission = gpu.queue.submit([encoder.finish()]);
    gpu.read(&ends, at as usize, submission, |bytes| {
        let whole = bytes.chunks_exact(4).all(|word| word == f32::NAN.to_le_bytes());
        assert!(whole, "a kernel wrote behind a value");
    })
}
