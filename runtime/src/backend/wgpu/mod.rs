//! The wgpu backend: plans on GPUs, through Vulkan, Metal and Direct3D 12.
//!
//! An entry is lowered as for the CPU backend. Its instructions become dispatches that are recorded once for
//! calls of the same sizes and replayed: a step is one submission and one read-back. What a call tells goes to
//! one buffer of words, the price included, so that nothing else changes between steps.

mod buffers;
mod cache;
mod call;
mod device;
mod kept;
mod ops;
mod pipelines;
mod pool;
mod rate;
mod record;
mod shaders;
mod sites;
mod state;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use limbeck_kernels::{KV_BLOCK, KvConfig, KvLayer};
use limbeck_plan::{Entry, Program, StateKind};

use super::apart::without_attend;
use super::lower::{Ids, Instruction, Lowered};
use super::{Backend, Bounds, PlanData, Prepared, State};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Account;
use buffers::Weights;
use cache::DeviceCache;
use call::{Given, Turns};
use device::Gpu;
pub(crate) use device::is_named;
pub use device::{ADAPTER_VARIABLE, Adapter, adapters, prefers_gpu};
use pipelines::Pipelines;
use sites::Told;
use state::WgpuState;

/// Runs native segments on a GPU.
pub(crate) struct WgpuBackend {
    gpu: Arc<Gpu>,
    pipelines: Arc<Pipelines>,
}

impl WgpuBackend {
    /// Opens the adapter that `limbeck devices` names as chosen. What its driver makes of shaders is kept in the
    /// folder, where there is one and the driver gives it.
    ///
    /// # Errors
    /// No adapter, or one that does not open.
    pub fn new(folder: Option<&Path>) -> Result<WgpuBackend> {
        WgpuBackend::with_limits(None, folder)
    }

    /// [`WgpuBackend::new`] where that goes before the CPU's backend.
    ///
    /// # Errors
    /// As there.
    pub fn before_the_cpu(folder: Option<&Path>) -> Option<Result<WgpuBackend>> {
        prefers_gpu(&adapters()).then(|| WgpuBackend::new(folder))
    }

    /// `limits` takes the place of the adapter's own.
    fn with_limits(limits: Option<wgpu::Limits>, folder: Option<&Path>) -> Result<WgpuBackend> {
        let gpu = Arc::new(Gpu::open(limits)?);
        let pipelines = Arc::new(Pipelines::new(&gpu, folder));
        Ok(WgpuBackend { gpu, pipelines })
    }
}

impl Backend for WgpuBackend {
    fn description(&self) -> String {
        self.gpu.description.clone()
    }

    fn read_rate(&self) -> Result<Option<f64>> {
        rate::read_rate(&self.gpu, &self.pipelines).map(Some)
    }

    fn prepare(&self, data: Arc<PlanData>) -> Result<Arc<dyn Prepared>> {
        let program = data.plan.program();
        let entries: Vec<Entry> = program.entries.iter().map(without_attend).collect();
        let limits = &self.gpu.limits;
        entries.iter().try_for_each(|entry| ops::check(program, entry, limits))?;
        let entries = entries.iter().map(|entry| DeviceEntry::new(&data, entry));
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let weights = Weights::upload(&self.gpu, &data)?;
        let (gpu, pipelines) = (self.gpu.clone(), self.pipelines.clone());
        Ok(Arc::new(WgpuPrepared(Arc::new(Shared { gpu, pipelines, entries, weights, data }))))
    }
}

/// What all sessions of a model share.
struct Shared {
    gpu: Arc<Gpu>,
    pipelines: Arc<Pipelines>,
    entries: Vec<DeviceEntry>,
    weights: Weights,
    data: Arc<PlanData>,
}

/// An entry with what a call of it tells.
struct DeviceEntry {
    lowered: Lowered,
    inputs: Vec<Given>,
    turns: Vec<Turns>,
    /// Whether it has attention, and whether that keeps keys and values.
    attends: bool,
    keeps: bool,
    /// Whether sequences are images.
    of_images: bool,
    told: Told,
}

impl DeviceEntry {
    fn new(data: &PlanData, entry: &Entry) -> Result<DeviceEntry> {
        let program = data.plan.program();
        let lowered = Lowered::new(program, entry, true, &mut 0)?;
        let below = |index: usize| table_rows(program, &lowered, index);
        let inputs = call::inputs(entry, below);
        let (mut turns, mut attends, mut keeps) = (Vec::new(), false, None);
        for named in &lowered.instructions {
            let Instruction::Attention { params, inv_freq, .. } = &named.instruction else {
                continue;
            };
            attends = true;
            if *keeps.get_or_insert(params.state.is_some()) != params.state.is_some() {
                let message = "its attention does not keep keys and values as that of others does: \
                    use the backend cpu";
                let error = Error::new(ErrorKind::Unsupported, message);
                return Err(error.at(entry.place(&named.step)));
            }
            if let (Some(weight), Some(rope)) = (*inv_freq, &params.rope) {
                let packed = data.weight(weight)?;
                let mut inv_freq = vec![0.0; packed.cols()];
                packed.unpack_row(0, &mut inv_freq)?;
                let found = Turns { weight, inv_freq, factor: rope.factor };
                if !turns.contains(&found) {
                    turns.push(found);
                }
            }
        }
        let (keeps, of_images) = (keeps.unwrap_or(false), call::of_images(entry));
        let told = Told::new(program, &lowered);
        Ok(DeviceEntry { lowered, inputs, turns, attends, keeps, of_images, told })
    }
}

/// The fewest rows of the tables that an input's ids are looked up in.
fn table_rows(program: &Program, lowered: &Lowered, index: usize) -> usize {
    let rows = lowered.instructions.iter().filter_map(|named| match named.instruction {
        Instruction::Embedding { ids: Ids::Input(input), table, .. } if input == index => {
            program.weights.get(table).map(|weight| weight.rows)
        }
        _ => None,
    });
    rows.min().unwrap_or(usize::MAX)
}

struct WgpuPrepared(Arc<Shared>);

impl Prepared for WgpuPrepared {
    fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>> {
        let layers = self.0.data.plan.program().states.iter().map(|s| {
            let StateKind::Append { kv_heads, head_dim } = s.kind;
            KvLayer { kv_heads, head_dim }
        });
        let config = KvConfig {
            layers: layers.collect(),
            dtype: bounds.kv,
            max_blocks: bounds.cache_tokens.div_ceil(KV_BLOCK),
        };
        let cache = DeviceCache::new(self.0.gpu.clone(), config, account.holding());
        Ok(Box::new(WgpuState::new(self.0.clone(), cache, *bounds, account.holding())))
    }
}

/// The error for what this backend cannot do.
fn lacks(what: impl std::fmt::Display) -> Error {
    let message = format!("the backend wgpu lacks {what}: use the backend cpu");
    Error::new(ErrorKind::Unsupported, message)
}
