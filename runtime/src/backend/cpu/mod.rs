//! The CPU backend: plans lowered to a list of kernel calls over reused buffers.

mod bands;
mod onnx;
mod rows;
mod run;
mod tensors;

use std::sync::Arc;

use limbeck_kernels::{Kernels, Packed, Pool};

use super::lower::Lowered;
use super::onnx::Segments;
use super::{Backend, Bounds, PlanData, Prepared, State};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Account;
use crate::onnx::OnnxOptions;
use bands::Run;
use run::CpuState;

/// Runs native segments with the kernels of this CPU.
pub(crate) struct CpuBackend {
    kernels: Kernels,
    pool: Arc<Pool>,
    onnx: OnnxOptions,
}

impl CpuBackend {
    /// `isa` overrides the choice of instruction set by name.
    pub fn new(threads: usize, isa: Option<&str>, onnx: OnnxOptions) -> Result<CpuBackend> {
        let kernels = match isa {
            None => Kernels::detect(),
            Some(name) => Kernels::with_isa(name)
                .map_err(|e| Error::new(ErrorKind::InvalidInput, e.to_string()))?,
        };
        Ok(CpuBackend { kernels, pool: Arc::new(Pool::new(threads)), onnx })
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        format!("cpu ({}, {} threads)", self.kernels.isa(), self.pool.threads())
    }

    fn prepare(&self, data: Arc<PlanData>) -> Result<Arc<dyn Prepared>> {
        let program = data.plan.program();
        let mut count = 0;
        let lower = |e| Lowered::new(program, e, true, &mut count);
        let entries = program.entries.iter().map(lower);
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let segments = Segments::prepare(&self.onnx, self.pool.threads(), &data)?;
        let vectors = data.load_vectors()?;
        Ok(Arc::new(CpuPrepared {
            shared: Arc::new(Shared {
                kernels: self.kernels,
                pool: self.pool.clone(),
                alone: Pool::new(1),
                runs: entries.iter().map(bands::runs).collect(),
                entries,
                vectors,
                segments,
                data,
            }),
        }))
    }
}

/// What all sessions of a model share.
struct Shared {
    kernels: Kernels,
    pool: Arc<Pool>,
    /// Of one thread, for what a thread of the other does.
    alone: Pool,
    entries: Vec<Lowered>,
    /// By entry, what runs in bands of rows.
    runs: Vec<Vec<Run>>,
    /// By weight: the values of those that are read as vectors.
    vectors: Vec<Option<Vec<f32>>>,
    /// Before the bytes of the plan, into which they look.
    segments: Segments,
    data: Arc<PlanData>,
}

impl Shared {
    fn weight(&self, id: usize) -> Result<Packed<'_>> {
        self.data.weight(id)
    }

    fn vector(&self, id: usize) -> Result<&[f32]> {
        let found = self.vectors.get(id).and_then(Option::as_deref);
        found.ok_or_else(|| Error::new(ErrorKind::Plan, format!("weight {id} is no vector")))
    }
}

struct CpuPrepared {
    shared: Arc<Shared>,
}

impl Prepared for CpuPrepared {
    fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>> {
        let cache = self.shared.data.new_cache(bounds, account)?;
        Ok(Box::new(CpuState::new(self.shared.clone(), cache, *bounds, account.holding())))
    }
}
