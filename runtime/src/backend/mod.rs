//! Backends: what runs a plan's native segments.

#[cfg(feature = "wgpu")]
mod apart;
mod choices;
pub(crate) mod cost;
pub(crate) mod cpu;
mod data;
#[cfg(any(feature = "fake", all(test, feature = "wgpu")))]
pub(crate) mod fake;
mod lower;
pub(crate) mod onnx;
mod sequences;
mod sizes;
mod slots;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::sync::Arc;

use limbeck_kernels::{KvType, Rows, Span, TensorArg};
use limbeck_plan::{Dim, Symbol};

use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Account;
use crate::text::shortlist::{Pick, Shortlist};

pub(crate) use choices::Choices;
pub(crate) use data::PlanData;
pub(crate) use sequences::{Cache, Sequences};

/// The largest call and cache that a state must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Rows of a call.
    pub tokens: usize,
    /// Positions over all sequences.
    pub cache_tokens: usize,
    /// How keys and values are kept.
    pub kv: KvType,
}

impl Bounds {
    /// Refuses a call that is larger, or whose inputs are not of its tokens.
    fn check(&self, call: &Call<'_>) -> Result<()> {
        let tokens = call.tokens;
        let counts = [
            (tokens, "tokens"),
            (call.output_rows.len(), "output rows"),
            (call.sequences.len(), "sequences"),
        ];
        let beyond = counts.into_iter().find(|(count, _)| *count > self.tokens);
        let message = match beyond {
            Some((count, what)) => {
                format!("a call of {count} {what} does not fit the bound {}", self.tokens)
            }
            None => match call.inputs.iter().find(|(_, values)| values.len() != tokens) {
                None => return Ok(()),
                Some((name, values)) => {
                    format!("input {name:?} has {} values for {tokens} tokens", values.len())
                }
            },
        };
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

/// One run of an entry.
pub(crate) struct Call<'a> {
    /// Index of the entry in the plan.
    pub entry: usize,
    /// Input operands by name.
    pub inputs: &'a [(&'a str, &'a [i32])],
    /// Input operands of f32 by name, `[sequences, ...]`.
    pub floats: &'a [(&'a str, &'a [f32])],
    /// Tensors by name.
    pub tensors: &'a [(&'a str, TensorArg<'a>)],
    /// What the tensors' sizes are: values of symbols by name.
    pub sizes: &'a [(&'a str, u64)],
    /// Rows of the call.
    pub tokens: usize,
    /// Which rows belong to which sequence, for attention.
    pub spans: &'a [Span],
    /// Each sequence's valid rows, for pooling.
    pub sequences: &'a [Rows],
    /// Rows that outputs are asked for.
    pub output_rows: &'a [usize],
    /// Price of compute at the plan's sites, finite and at least 0.
    pub price: f32,
    /// Choices to follow in the place of the gates', `[sites, tokens]`; -1 leaves one free.
    pub forced: Option<&'a [i32]>,
    /// What cancels the call between two steps of the entry, where calls are long.
    pub control: Option<&'a Control>,
    /// What is to be found of each row of logits in the place of all. See [`State::picked`].
    #[cfg_attr(
        not(feature = "wgpu"),
        expect(dead_code, reason = "the backend of GPUs alone picks")
    )]
    pub pick: Pick,
}

impl<'a> Call<'a> {
    /// The value of a size in this call; `None` where it has none.
    pub fn size(&self, dim: &Dim) -> Option<u64> {
        dim.eval(&|name| self.symbol(name))
    }

    /// The value of a symbol in this call.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        match name {
            Symbol::TOKENS => Some(self.tokens as u64),
            Symbol::OUTPUTS => Some(self.output_rows.len() as u64),
            Symbol::SEQUENCES => Some(self.sequences.len() as u64),
            _ => self.sizes.iter().find(|(n, _)| *n == name).map(|(_, size)| *size),
        }
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<TensorArg<'a>> {
        let found = self.tensors.iter().find(|(n, _)| *n == name).map(|(_, tensor)| *tensor);
        found.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("tensor {name:?} is missing"))
        })
    }
}

/// The f32 input of a call that has this name.
fn given<'a>(call: &Call<'a>, name: &str) -> Result<&'a [f32]> {
    let found = call.floats.iter().find(|(n, _)| *n == name);
    found
        .map(|(_, values)| *values)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("input {name:?} is missing")))
}

/// An output of the last run: f32, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub values: &'a [f32],
    pub cols: usize,
}

/// What a run spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub macs: u64,
    /// With every site at its largest choice.
    pub full_macs: u64,
    /// Of the ops that follow a site's choices.
    pub site_macs: u64,
    /// The same with every site at its largest choice.
    pub site_full_macs: u64,
    pub bytes: u64,
}

/// What the last step took of a device: counted, where time would tell of one machine alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceUse {
    /// Runs of a shader.
    pub dispatches: usize,
    /// Submissions to the device's queue.
    pub submissions: usize,
    /// Bytes of weights that dispatches bound, each time that one did.
    pub weight_bytes_bound: usize,
    /// Bytes that ops which follow the choices of sites read of their weights, as their kernels counted: each
    /// time that a group of theirs did.
    pub adaptive_bytes_read: usize,
    /// Bytes read back.
    pub bytes_read_back: usize,
    /// Bytes of weights that lie on the device.
    pub weight_bytes_held: usize,
}

/// Makes plans ready to run.
pub(crate) trait Backend: Send + Sync {
    /// What it is and what it chose, for people.
    fn description(&self) -> String;
    /// Bytes a second at which its device reads its memory; `None` where it has no device of its own.
    fn read_rate(&self) -> Result<Option<f64>> {
        Ok(None)
    }
    /// Checks that every op can run and makes what all sessions share.
    fn prepare(&self, data: Arc<PlanData>) -> Result<Arc<dyn Prepared>>;
}

/// A plan made ready, shared by sessions.
pub(crate) trait Prepared: Send + Sync {
    /// Opens what one session owns. What grows with use is charged to the account.
    fn state(&self, bounds: &Bounds, account: &Account) -> Result<Box<dyn State>>;
}

/// What one session owns: working memory and the cached positions of its sequences.
pub(crate) trait State: Send {
    /// Runs an entry. Cached positions that it writes are provisional until
    /// [`Sequences::commit`]. Where a limit on memory does not allow it, nothing has changed.
    fn run(&mut self, call: &Call<'_>) -> Result<Spent>;
    /// An output of the last run, by name.
    fn output(&self, name: &str) -> Option<Matrix<'_>>;
    /// The largest of each row of logits, as many as [`Call::pick`] where the row has them, when the last run was
    /// asked to pick and the backend finds them where the logits are; there is no output of logits then. A list is
    /// empty where the backend did not come to it.
    fn picked(&self) -> Option<&[Shortlist]> {
        None
    }
    /// Gives the last run's output of logits in the place of what was picked.
    fn unpick(&mut self) -> Result<()> {
        Ok(())
    }
    /// An output of the last run as a tensor, by name, of an entry of tensors.
    fn tensor(&self, name: &str) -> Option<TensorArg<'_>>;
    /// The choices of the last run, `[sites, tokens]`; -1 at the sites of other entries.
    fn choices(&self) -> &[i32];
    /// What the last run took of a device, where there is one.
    fn device_use(&self) -> Option<DeviceUse> {
        None
    }
    /// The cached sequences.
    fn sequences(&self) -> &dyn Sequences;
    /// The cached sequences, to change.
    fn sequences_mut(&mut self) -> &mut dyn Sequences;
}
