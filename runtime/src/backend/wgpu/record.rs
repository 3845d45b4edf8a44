//! Recordings: the dispatches of an entry for calls of the same sizes.

use std::sync::Arc;

use limbeck_plan::Dim;

use super::buffers::{ALIGN, Slice};
use super::call::CallLayout;
use super::pipelines::Pipeline;
use super::pool::Buffers;
use super::shaders::Shader;
use super::sites::MadeLayout;
use super::{DeviceEntry, Shared, ops};
use crate::backend::Call;
use crate::backend::sizes::Sizes;
use crate::backend::slots::Value;
use crate::error::{Error, ErrorKind, Result};

/// Words of a counter: a low one and a high one.
pub(super) const COUNTER_WORDS: usize = 2;

/// One run of a shader.
pub(super) struct Dispatch {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    grid: [u32; 3],
}

/// The dispatches of an entry, in order.
pub(super) struct Recording {
    dispatches: Vec<Dispatch>,
    /// Bytes of weights that they bind.
    pub weight_bytes: usize,
    /// By counter of what is read of a weight: bytes that 1 stands for.
    pub counters: Vec<usize>,
}

impl Recording {
    /// Records an entry for calls of this one's sizes over these buffers, and the largest of its logits where it asks
    /// for them.
    ///
    /// # Errors
    /// Those of the device, with the step.
    pub fn new(
        shared: &Shared,
        entry: &DeviceEntry,
        sizes: &Sizes,
        layout: &CallLayout,
        made: &MadeLayout,
        call: &Call<'_>,
        buffers: &Buffers<'_>,
    ) -> Result<Recording> {
        let size = |dim: &Dim| call.size(dim).and_then(|n| usize::try_from(n).ok());
        let mut recorder = Recorder {
            shared,
            entry,
            sizes,
            layout,
            made,
            size: &size,
            buffers,
            parts: ops::parts_of(call),
            pending: Vec::new(),
            uniforms: Vec::new(),
            weight_bytes: 0,
            counters: Vec::new(),
            number: 0,
            kept: 0,
        };
        for named in &entry.lowered.instructions {
            recorder.number += 1;
            ops::record(&mut recorder, &named.instruction)
                .map_err(|e| e.at(entry.lowered.place(&named.step)))?;
        }
        if call.pick.count > 0 {
            ops::pick(&mut recorder, call.pick)?;
        }
        recorder.finish()
    }

    /// How many dispatches there are.
    pub fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// Adds them to a pass.
    pub fn replay(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.iter().for_each(|dispatch| dispatch.replay(pass));
    }
}

impl Dispatch {
    /// Adds it to a pass.
    pub fn replay(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A dispatch whose parameters are not on the device yet.
pub(super) struct Pending {
    pub shader: Shader,
    /// Of its parameters among the uniforms, in bytes.
    pub offset: usize,
    pub bytes: usize,
    pub bindings: Vec<Slice>,
    pub grid: [u32; 3],
}

/// What ops record with.
pub(super) struct Recorder<'a> {
    pub shared: &'a Shared,
    pub entry: &'a DeviceEntry,
    pub sizes: &'a Sizes,
    pub layout: &'a CallLayout,
    pub made: &'a MadeLayout,
    /// The value of a size in the call.
    pub size: &'a dyn Fn(&Dim) -> Option<usize>,
    pub buffers: &'a Buffers<'a>,
    /// Groups that share the positions that a head of attention sees.
    pub parts: usize,
    pending: Vec<Pending>,
    uniforms: Vec<u32>,
    weight_bytes: usize,
    counters: Vec<usize>,
    /// Of the instruction that is recorded, from 1 on.
    number: usize,
    /// Counts of channels so far.
    kept: usize,
}

impl Recorder<'_> {
    /// Adds a dispatch of so many groups, with its parameters as words and its buffers in the order of the
    /// shader's bindings. No groups are no dispatch.
    ///
    /// # Errors
    /// More groups than a device has.
    pub fn dispatch(
        &mut self,
        shader: Shader,
        params: &[u32],
        bindings: &[&Slice],
        groups: usize,
    ) -> Result<()> {
        if groups == 0 {
            return Ok(());
        }
        let most = self.shared.gpu.limits.max_compute_workgroups_per_dimension as usize;
        let x = groups.min(most);
        let y = groups.div_ceil(x);
        if y > most {
            return Err(Error::new(ErrorKind::Capacity, format!("{groups} groups are too many")));
        }
        let offset = self.uniforms.len() * 4;
        self.uniforms.extend_from_slice(params);
        self.uniforms.resize(self.uniforms.len().next_multiple_of(ALIGN / 4), 0);
        self.pending.push(Pending {
            shader,
            offset,
            bytes: (params.len() * 4).next_multiple_of(16),
            bindings: bindings.iter().map(|slice| (*slice).clone()).collect(),
            grid: [x as u32, y as u32, 1],
        });
        Ok(())
    }

    /// By which the device names the instruction that is recorded; see [`MadeLayout::fault`].
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where the next linear that leaves out channels counts those that it keeps.
    pub fn next_kept(&mut self) -> usize {
        self.kept += 1;
        self.made.kept(self.kept - 1)
    }

    /// Counts bytes of weights that a dispatch binds.
    pub fn count_weights(&mut self, bytes: usize) {
        self.weight_bytes = self.weight_bytes.saturating_add(bytes);
    }

    /// Where what is read of a weight is counted, in units of so many bytes.
    pub fn counter(&mut self, bytes: usize) -> usize {
        self.counters.push(bytes);
        (self.counters.len() - 1) * COUNTER_WORDS
    }

    /// Where a value lives.
    pub fn value(&self, value: Value) -> Result<Slice> {
        self.buffers.value(value, self.sizes.len(value))
    }

    /// Where a value lives, or what stands for none.
    pub fn value_or_none(&self, value: Option<Value>) -> Result<Slice> {
        value.map_or_else(|| Ok(self.none()), |value| self.value(value))
    }

    /// A vector of weights, or what stands for none.
    pub fn vector_or_none(&self, id: Option<usize>) -> Result<Slice> {
        match id {
            Some(id) => self.shared.weights.vector(id).cloned(),
            None => Ok(self.none()),
        }
    }

    /// A buffer for bindings that a dispatch does not read.
    pub fn none(&self) -> Slice {
        Slice::whole(self.buffers.none)
    }

    /// Words that are the same in every call of the recording.
    ///
    /// # Errors
    /// Those of the device.
    pub fn constants(&self, words: &[u32]) -> Result<Slice> {
        let gpu = &self.shared.gpu;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer("constants", words.len() * 4, usage)?;
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        Ok(Slice::whole(&buffer))
    }

    /// The choices, and what comes back with them.
    pub fn choices(&self) -> Slice {
        Slice::whole(self.buffers.made)
    }

    /// The words of the call.
    pub fn call(&self) -> Slice {
        Slice::whole(self.buffers.call)
    }

    fn finish(self) -> Result<Recording> {
        let gpu = &self.shared.gpu;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = gpu.buffer("parameters", self.uniforms.len() * 4, usage)?;
        gpu.queue.write_buffer(&uniforms, 0, bytemuck::cast_slice(&self.uniforms));
        let (weight_bytes, counters) = (self.weight_bytes, self.counters);
        let shaders: Vec<Shader> = self.pending.iter().map(|dispatch| dispatch.shader).collect();
        let pipelines = self.shared.pipelines.get(gpu, &shaders)?;
        let dispatches = gpu.scoped(|| {
            let pending = self.pending.into_iter().zip(pipelines);
            pending.map(|(d, pipeline)| d.bind(&gpu.device, pipeline, &uniforms)).collect()
        })?;
        Ok(Recording { dispatches, weight_bytes, counters })
    }
}

impl Pending {
    /// Makes it a dispatch, with its parameters among these.
    pub fn bind(
        self,
        device: &wgpu::Device,
        pipeline: Arc<Pipeline>,
        uniforms: &wgpu::Buffer,
    ) -> Dispatch {
        let Pending { shader, offset, bytes, bindings, grid } = self;
        let params = Slice { buffer: uniforms.clone(), offset, bytes };
        debug_assert_eq!(bindings.len(), shader.bindings().len(), "{shader:?}");
        let entries: Vec<_> = (0..)
            .zip(std::iter::once(&params).chain(&bindings))
            .map(|(binding, slice)| wgpu::BindGroupEntry { binding, resource: slice.binding() })
            .collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        Dispatch { pipeline, group, grid }
    }
}
