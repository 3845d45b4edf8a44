//! A plan with its bytes, as backends read it.

use limbeck_kernels::{KV_BLOCK, KvCache, KvConfig, KvLayer, Packed};
use limbeck_plan::{InputRole, OperandKind, Plan, StateKind};

use super::{Bounds, Cache};
use crate::bytes::PlanBytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Account;

/// A plan with the bytes it was parsed from.
pub(crate) struct PlanData {
    pub plan: Plan,
    pub bytes: PlanBytes,
}

impl PlanData {
    /// A weight as kernels read it.
    pub fn weight(&self, id: usize) -> Result<Packed<'_>> {
        let weight =
            self.plan.program().weights.get(id).ok_or_else(|| {
                Error::new(ErrorKind::Plan, format!("weight {id} does not exist"))
            })?;
        let bytes = self.plan.weight_bytes(self.bytes.as_slice(), weight);
        Packed::new(weight.format, weight.rows, weight.cols, bytes)
            .map_err(|e| Error::from(e).at(format!("weight {:?}", weight.name)))
    }

    /// By weight: the f32 values of those that some step reads as a vector or a tensor: kernels read them
    /// as slices.
    pub fn load_vectors(&self) -> Result<Vec<Option<Vec<f32>>>> {
        let program = self.plan.program();
        let mut vectors = vec![None; program.weights.len()];
        for entry in &program.entries {
            for step in entry.steps() {
                for (role, &operand) in step.op.input_roles().iter().zip(&step.inputs) {
                    let kind = entry.operands.get(operand).map(|o| o.kind);
                    let read =
                        matches!(role, InputRole::Vector | InputRole::Rows | InputRole::Tensor);
                    if let (true, Some(OperandKind::Weight(id))) = (read, kind)
                        && vectors[id].is_none()
                    {
                        let weight = self.weight(id)?;
                        let mut values = vec![0.0; weight.rows() * weight.cols()];
                        for (row, out) in values.chunks_exact_mut(weight.cols()).enumerate() {
                            weight.unpack_row(row, out)?;
                        }
                        vectors[id] = Some(values);
                    }
                }
            }
        }
        Ok(vectors)
    }

    /// An empty cache for the plan's append states.
    pub fn new_cache(&self, bounds: &Bounds, account: &Account) -> Result<Cache> {
        let layers = self.plan.program().states.iter().map(|s| {
            let StateKind::Append { kv_heads, head_dim } = s.kind;
            KvLayer { kv_heads, head_dim }
        });
        let cache = KvCache::new(KvConfig {
            layers: layers.collect(),
            dtype: bounds.kv,
            max_blocks: bounds.cache_tokens.div_ceil(KV_BLOCK),
        })?;
        Ok(Cache::new(cache, account.holding()))
    }
}
