//! The kernels that are chosen: one per op and values.

use crate::adaptive::Gate;
use crate::attention::{AttendTask, PrepareTask};
use crate::error::{Error, ErrorKind};
use crate::images::{DepthwiseTask, WinogradTask};
use crate::isa::Isa;
use crate::linear::{ActBlock, ChannelTask, FindTask, LinearTask, RetileTask, retile_portable};
use crate::norm::NormArgs;
use crate::tensors::{ChannelRowsTask, MapTask};
use limbeck_plan::{Activation, Values};

use super::{Function, KernelRow, QuantiseRow, kernel_table, rows::portable};

/// One kernel per op and values, for one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    linear: [unsafe fn(&LinearTask<'_>); 6],
    /// `F16`, `Q8`, `Q4`, then `Q4m`.
    channels: [unsafe fn(&ChannelTask<'_>); 4],
    find_active: unsafe fn(&mut FindTask<'_>),
    keep: unsafe fn(&[f32], f32, &mut [f32]) -> usize,
    retile: unsafe fn(&mut RetileTask<'_>),
    quantise: QuantiseRow,
    norm: unsafe fn(&NormArgs<'_>, &[f32], &mut [f32]),
    add: unsafe fn(&[f32], &[f32], &mut [f32]),
    activate: unsafe fn(Activation, &[f32], &mut [f32]),
    gate: unsafe fn(Activation, &[f32], &[f32], &mut [f32]),
    soft_cap: unsafe fn(f32, &[f32], &mut [f32]),
    gains: unsafe fn(&[f32], Gate<'_>, &mut [f32]),
    prepare: unsafe fn(&PrepareTask<'_>),
    attend: unsafe fn(&AttendTask<'_>),
    /// Only where the CPU multiplies pairs of bf16.
    keep_pairs: Option<unsafe fn(&PrepareTask<'_>)>,
    attend_pairs: Option<unsafe fn(&AttendTask<'_>)>,
    depthwise: unsafe fn(&mut DepthwiseTask<'_>),
    winograd: unsafe fn(&mut WinogradTask<'_>),
    map: unsafe fn(&mut MapTask<'_>),
    softmax: unsafe fn(&[f32], bool, &mut [f32]),
    channel_rows: unsafe fn(&mut ChannelRowsTask<'_>),
}

fn slot(values: Values) -> usize {
    match values {
        Values::F32 => 0,
        Values::F16 => 1,
        Values::Q8 => 2,
        Values::Q4 => 3,
        Values::Q4m => 4,
        Values::Q8w => 5,
    }
}

/// Of values that weights in channels have.
fn channel_slot(values: Values) -> usize {
    match values {
        Values::Q4m => 3,
        Values::Q4 => 2,
        Values::Q8 => 1,
        _ => 0,
    }
}

impl Kernels {
    /// The available row of the least cost for each op and values. [`Kernels::isa`] is the best
    /// instruction set that this CPU has.
    pub fn detect() -> Kernels {
        let best = Isa::ALL.iter().find(|isa| isa.available());
        Self::of(best.copied().unwrap_or(Isa::Portable), KernelRow::selected)
    }

    /// The instruction set of that name ([`Isa::name`]).
    ///
    /// # Errors
    /// `Isa` when the name is unknown or the CPU lacks it.
    pub fn with_isa(name: &str) -> Result<Kernels, Error> {
        let names = || {
            let names: Vec<&str> =
                Isa::ALL.iter().filter(|i| i.available()).map(|i| i.name()).collect();
            names.join(", ")
        };
        match Isa::from_name(name) {
            Some(isa) if isa.available() => {
                Ok(Self::of(isa, |row| row.isa == isa || Some(row.isa) == isa.base()))
            }
            Some(isa) => Err(Error::new(
                ErrorKind::Isa,
                format!("the instruction set {isa} is not available here; there are: {}", names()),
            )),
            None => Err(Error::new(
                ErrorKind::Isa,
                format!("no instruction set is called {name:?}; there are: {}", names()),
            )),
        }
    }

    /// The rows that are wanted, portable ones elsewhere. All of the former are available.
    fn of(isa: Isa, wanted: impl Fn(&KernelRow) -> bool) -> Kernels {
        let mut kernels = Kernels {
            isa,
            linear: [
                portable::linear_f32,
                portable::linear_f16,
                portable::linear_q8,
                portable::linear_q4,
                portable::linear_q4m,
                portable::linear_q8w,
            ],
            channels: [
                portable::channels_f16,
                portable::channels_q8,
                portable::channels_q4,
                portable::channels_q4m,
            ],
            find_active: portable::find,
            keep: portable::keep,
            retile: retile_portable,
            quantise: portable::quantise,
            norm: portable::norm,
            add: portable::add,
            activate: portable::activate,
            gate: portable::gate,
            soft_cap: portable::soft_cap,
            gains: portable::gains,
            prepare: portable::prepare,
            attend: portable::attend,
            keep_pairs: None,
            attend_pairs: None,
            depthwise: portable::depthwise,
            winograd: portable::winograd,
            map: portable::map,
            softmax: portable::softmax,
            channel_rows: portable::channel_rows,
        };
        for row in kernel_table().filter(|row| wanted(row)) {
            match (row.function, row.values) {
                (Function::Linear(f), Some(values)) => kernels.linear[slot(values)] = f,
                (Function::Channels(f), Some(values)) => kernels.channels[channel_slot(values)] = f,
                (Function::FindActive(f), _) => kernels.find_active = f,
                (Function::Keep(f), _) => kernels.keep = f,
                (Function::Retile(f), _) => kernels.retile = f,
                (Function::Quantise(f), _) => kernels.quantise = f,
                (Function::Norm(f), _) => kernels.norm = f,
                (Function::Add(f), _) => kernels.add = f,
                (Function::Activate(f), _) => kernels.activate = f,
                (Function::Gate(f), _) => kernels.gate = f,
                (Function::SoftCap(f), _) => kernels.soft_cap = f,
                (Function::Gains(f), _) => kernels.gains = f,
                (Function::AttentionPrepare(f), _) => kernels.prepare = f,
                (Function::Attend(f), _) => kernels.attend = f,
                (Function::KeepPairs(f), _) => kernels.keep_pairs = Some(f),
                (Function::AttendPairs(f), _) => kernels.attend_pairs = Some(f),
                (Function::Depthwise(f), _) => kernels.depthwise = f,
                (Function::Winograd(f), _) => kernels.winograd = f,
                (Function::Map(f), _) => kernels.map = f,
                (Function::Softmax(f), _) => kernels.softmax = f,
                (Function::ChannelRows(f), _) => kernels.channel_rows = f,
                (Function::Linear(_) | Function::Channels(_), None) => {}
            }
        }
        kernels
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// # Safety
    /// The contract of `linear::run`, and the input has the form that `values` asks for.
    pub(crate) unsafe fn linear_task(&self, values: Values, task: &LinearTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen; the caller vouches for
        // the task.
        unsafe { (self.linear[slot(values)])(task) }
    }

    /// # Safety
    /// The contract of `linear::run_channels`, of f16 that of `linear::run_float_channels`; and the weight has these
    /// values.
    pub(crate) unsafe fn channel_task(&self, values: Values, task: &ChannelTask<'_>) {
        let kernel = self.channels[channel_slot(values)];
        // SAFETY: only kernels of an available instruction set are chosen; the caller vouches for
        // the task.
        unsafe { kernel(task) }
    }

    /// Finds the channels of a row of whole blocks that are not zero.
    pub(crate) fn find_active(&self, task: &mut FindTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.find_active)(task) }
    }

    pub(crate) fn keep_row(&self, weights: &[f32], threshold: f32, x: &mut [f32]) -> usize {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.keep)(weights, threshold, x) }
    }

    pub(crate) fn retile(&self, task: &mut RetileTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.retile)(task) }
    }

    /// Quantises a row, times the factors where there are any, for a weight of these values.
    pub(crate) fn quantise_row(
        &self,
        x: &[f32],
        factors: Option<&[f32]>,
        values: Values,
        q: &mut [i8],
        blocks: &mut [ActBlock],
    ) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.quantise)(x, factors, values, q, blocks) }
    }

    pub(crate) fn norm_row(&self, args: &NormArgs<'_>, x: &[f32], out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.norm)(args, x, out) }
    }

    pub(crate) fn add(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.add)(a, b, out) }
    }

    pub(crate) fn activate(&self, activation: Activation, x: &[f32], out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.activate)(activation, x, out) }
    }

    pub(crate) fn gate(&self, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.gate)(activation, gate, up, out) }
    }

    pub(crate) fn soft_cap(&self, cap: f32, x: &[f32], out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.soft_cap)(cap, x, out) }
    }

    /// Gains of one row of the gate's columns; `out` has its rows.
    pub(crate) fn gains(&self, x: &[f32], gate: Gate<'_>, out: &mut [f32]) {
        gate.check(x, out);
        // SAFETY: only kernels of an available instruction set are chosen; lengths are checked.
        unsafe { (self.gains)(x, gate, out) }
    }

    pub(crate) fn depthwise(&self, task: &mut DepthwiseTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.depthwise)(task) }
    }

    /// # Safety
    /// The contract of `images::winograd_task`.
    pub(crate) unsafe fn winograd(&self, task: &mut WinogradTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen; the caller vouches for
        // the task.
        unsafe { (self.winograd)(task) }
    }

    pub(crate) fn map(&self, task: &mut MapTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.map)(task) }
    }

    /// Of a row, which is not empty.
    pub(crate) fn softmax(&self, x: &[f32], log: bool, out: &mut [f32]) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.softmax)(x, log, out) }
    }

    pub(crate) fn channel_rows(&self, task: &mut ChannelRowsTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen.
        unsafe { (self.channel_rows)(task) }
    }

    /// # Safety
    /// The contract of `attention::prepare_task`.
    pub(crate) unsafe fn prepare(&self, task: &PrepareTask<'_>) {
        // SAFETY: only kernels of an available instruction set are chosen; the caller vouches for
        // the task.
        unsafe { (self.prepare)(task) }
    }

    /// Stores keys and values of a call in pairs; `prepare` does not.
    ///
    /// # Safety
    /// The contract of `attention::keep_pairs`.
    pub(crate) unsafe fn keep_pairs(&self, task: &PrepareTask<'_>) {
        if let Some(keep) = self.keep_pairs {
            // SAFETY: as in `prepare`.
            unsafe { keep(task) }
        }
    }

    /// Whether there may be calls in pairs.
    pub(crate) fn has_pairs(&self) -> bool {
        self.keep_pairs.is_some() && self.attend_pairs.is_some()
    }

    /// # Safety
    /// The contract of `attention::attend_task`.
    pub(crate) unsafe fn attend(&self, task: &AttendTask<'_>) {
        let attend = self.attend_pairs.filter(|_| task.call.has_pairs()).unwrap_or(self.attend);
        // SAFETY: only kernels of an available instruction set are chosen; the caller vouches for
        // the task.
        unsafe { attend(task) }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish()
    }
}
