//! Buffers on the device: parts of them, and the weights of a plan.

use limbeck_plan::{CHANNEL_RUN, Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, Weight};

use super::device::Gpu;
use crate::backend::PlanData;
use crate::error::{Error, ErrorKind, Result};

/// Where bindings may begin.
pub(super) const ALIGN: usize = 256;
/// Bytes written at a time, and bytes after which the device is waited for: what is on the way to it lies in
/// this machine's memory.
const CHUNK: usize = 4 << 20;
const IN_FLIGHT: usize = 16 << 20;
/// Shards begin at multiples of so many rows, which whole tiles of kernels have.
const SHARD_ROWS: usize = 64;
/// Bytes of a buffer of weights, unless one shard is larger.
const ARENA: usize = 256 << 20;

/// A part of a buffer.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub buffer: wgpu::Buffer,
    pub offset: usize,
    pub bytes: usize,
}

impl Slice {
    /// All of a buffer.
    pub fn whole(buffer: &wgpu::Buffer) -> Slice {
        Slice { buffer: buffer.clone(), offset: 0, bytes: buffer.size() as usize }
    }

    /// As a shader takes it, which may read four words at a time.
    pub fn binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset as u64,
            size: std::num::NonZeroU64::new(self.bytes.next_multiple_of(16) as u64),
        })
    }
}

/// Rows of a weight that one binding holds.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub slice: Slice,
    pub first: usize,
    pub rows: usize,
    /// Rows that its bytes hold, with padding.
    pub stored: usize,
}

/// A weight on the device.
#[derive(Clone, Debug)]
pub(super) struct DeviceWeight {
    pub format: PackFormat,
    pub rows: usize,
    pub cols: usize,
    pub shards: Vec<Shard>,
}

impl DeviceWeight {
    /// All of it, where one binding holds it.
    ///
    /// # Errors
    /// `Unsupported`, where none does.
    pub fn whole(&self) -> Result<&Slice> {
        match self.shards.as_slice() {
            [shard] => Ok(&shard.slice),
            _ => Err(Error::new(ErrorKind::Unsupported, "a weight is beyond one binding")),
        }
    }
}

/// The weights of a plan on the device.
#[derive(Debug)]
pub(super) struct Weights {
    weights: Vec<DeviceWeight>,
    /// Bytes of the buffers.
    pub bytes: usize,
}

impl Weights {
    /// Copies a plan's weights to the device, from where they lie.
    ///
    /// # Errors
    /// `Memory`, or `Unsupported` for a weight whose rows are beyond the device's bindings.
    pub fn upload(gpu: &Gpu, data: &PlanData) -> Result<Weights> {
        let weights = &data.plan.program().weights;
        let most =
            usize::try_from(gpu.limits.max_storage_buffer_binding_size).unwrap_or(usize::MAX);
        let mut arenas = Arenas::default();
        let shards = weights.iter().map(|weight| {
            arenas.shards(weight, data.plan.weight_bytes(data.bytes.as_slice(), weight), most)
        });
        let shards = shards.collect::<Result<Vec<_>>>()?;
        let buffers = arenas.write(gpu)?;
        let shard = |(place, rows): (Place, Rows)| Shard {
            slice: Slice {
                buffer: buffers[place.arena].clone(),
                offset: place.offset,
                bytes: place.bytes,
            },
            first: rows.first,
            rows: rows.count,
            stored: rows.stored,
        };
        let weights = weights.iter().zip(shards).map(|(weight, shards)| {
            let Weight { format, rows, cols, .. } = *weight;
            let shards = shards.into_iter().map(shard).collect();
            DeviceWeight { format, rows, cols, shards }
        });
        Ok(Weights { weights: weights.collect(), bytes: arenas.sizes.iter().sum() })
    }

    /// A weight.
    pub fn get(&self, id: usize) -> Result<&DeviceWeight> {
        let missing = || Error::new(ErrorKind::Plan, format!("weight {id} does not exist"));
        self.weights.get(id).ok_or_else(missing)
    }

    /// A weight in f32 rows that one binding holds.
    pub fn vector(&self, id: usize) -> Result<&Slice> {
        match self.get(id)? {
            weight if weight.format == PackFormat::F32_ROW => weight.whole(),
            weight => {
                let message = format!("weight {id} is in {}, not in floats", weight.format);
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

/// A place in an arena.
#[derive(Clone, Copy)]
struct Place {
    arena: usize,
    offset: usize,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    count: usize,
    stored: usize,
}

/// Buffers to be, each with what goes where.
#[derive(Default)]
struct Arenas<'a> {
    sizes: Vec<usize>,
    sources: Vec<(Place, &'a [u8])>,
}

impl<'a> Arenas<'a> {
    fn place(&mut self, source: &'a [u8]) -> Place {
        let bytes = source.len();
        let fits = |size: &usize| size.next_multiple_of(ALIGN).saturating_add(bytes) <= ARENA;
        if !self.sizes.last().is_some_and(fits) {
            self.sizes.push(0);
        }
        let arena = self.sizes.len() - 1;
        let offset = self.sizes[arena].next_multiple_of(ALIGN);
        self.sizes[arena] = offset + bytes.next_multiple_of(16);
        let place = Place { arena, offset, bytes };
        self.sources.push((place, source));
        place
    }

    /// Cuts a weight into shards of at most `most` bytes.
    fn shards(
        &mut self,
        weight: &Weight,
        bytes: &'a [u8],
        most: usize,
    ) -> Result<Vec<(Place, Rows)>> {
        let Weight { rows, cols, format, .. } = *weight;
        let unsupported = || {
            let message = format!("its rows are beyond the device's bindings of {most} bytes");
            Error::new(ErrorKind::Unsupported, message).at(format!("weight {:?}", weight.name))
        };
        let of_rows = |rows: usize| format.byte_len(rows, cols).ok_or_else(unsupported);
        let mut step = rows;
        if bytes.len() > most {
            step = (most / of_rows(SHARD_ROWS)?.max(1)).saturating_mul(SHARD_ROWS);
        }
        if step == 0 || (step < rows && format.by_channel()) {
            return Err(unsupported());
        }
        let padding = match format.layout {
            Layout::Row => 1,
            Layout::Panels => PANEL_ROWS,
            Layout::Quads => QUAD_ROWS,
            Layout::Channels | Layout::Columns => CHANNEL_RUN,
        };
        let mut shards = Vec::new();
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let start = of_rows(first)?;
            let part = bytes.get(start..start + of_rows(count)?).ok_or_else(unsupported)?;
            let stored = count.next_multiple_of(padding);
            shards.push((self.place(part), Rows { first, count, stored }));
        }
        Ok(shards)
    }

    /// Makes the buffers and fills them.
    fn write(&mut self, gpu: &Gpu) -> Result<Vec<wgpu::Buffer>> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffers = self.sizes.iter().map(|size| gpu.buffer("weights", *size, usage));
        let buffers = buffers.collect::<Result<Vec<_>>>()?;
        let mut in_flight = 0;
        for (place, source) in self.sources.drain(..) {
            for (i, chunk) in source.chunks(CHUNK).enumerate() {
                let offset = (place.offset + i * CHUNK) as u64;
                let whole = chunk.len() / 4 * 4;
                let (words, rest) = chunk.split_at(whole);
                gpu.queue.write_buffer(&buffers[place.arena], offset, words);
                if !rest.is_empty() {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    gpu.queue.write_buffer(&buffers[place.arena], offset + whole as u64, &last);
                }
                in_flight += chunk.len();
                if in_flight >= IN_FLIGHT {
                    gpu.wait(gpu.queue.submit([]))?;
                    in_flight = 0;
                }
            }
        }
        gpu.wait(gpu.queue.submit([]))?;
        Ok(buffers)
    }
}
