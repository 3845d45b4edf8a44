//! The kernel table: one row per op, values and instruction set, and the choice among its rows.

mod kernels;
mod rows;

use crate::adaptive::Gate;
use crate::attention::{AttendTask, PrepareTask};
use crate::images::{DepthwiseTask, WinogradTask};
use crate::isa::Isa;
use crate::linear::{ActBlock, ChannelTask, FindTask, LinearTask, RetileTask};
use crate::norm::NormArgs;
use crate::tensors::{ChannelRowsTask, MapTask};
use limbeck_plan::{Activation, PackFormat, Values};

pub use kernels::Kernels;

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelOp {
    /// Products of rows with a packed weight, and their epilogue.
    Linear,
    /// The same for a few rows and a weight by channel.
    Channels,
    /// The channels of a row that are not zero.
    FindActive,
    /// Small values to zeros.
    Keep,
    /// Channels to quads.
    Retile,
    /// Activations to 8-bit blocks.
    Quantise,
    /// Norm of a row.
    Norm,
    /// Elementwise sum.
    Add,
    /// Elementwise activation.
    Activate,
    /// Gated activation.
    Gate,
    /// Soft cap.
    SoftCap,
    /// What a site's gate makes of a row.
    Gains,
    /// Norm, rotation and storing of queries, keys and values.
    AttentionPrepare,
    /// Attention over stored keys and values.
    Attend,
    /// Storing of keys and values as pairs of bf16.
    KeepPairs,
    /// Attention over those.
    AttendPairs,
    /// Convolution of each channel with its own kernel.
    Depthwise,
    /// The transforms around the products of a convolution of 3 x 3 pixels.
    Winograd,
    /// Steps of elementwise computation.
    Map,
    /// Softmax of a row.
    Softmax,
    /// Statistics and affine maps of channels.
    ChannelRows,
}

type QuantiseRow = unsafe fn(&[f32], Option<&[f32]>, Values, &mut [i8], &mut [ActBlock]);

/// A row's entry point. All are unsafe to call because the CPU must have the row's instruction
/// set; [`Kernels`] holds only those that it has.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "of some there are no rows"))]
enum Function {
    Linear(unsafe fn(&LinearTask<'_>)),
    Channels(unsafe fn(&ChannelTask<'_>)),
    FindActive(unsafe fn(&mut FindTask<'_>)),
    Keep(unsafe fn(&[f32], f32, &mut [f32]) -> usize),
    Retile(unsafe fn(&mut RetileTask<'_>)),
    Quantise(QuantiseRow),
    Norm(unsafe fn(&NormArgs<'_>, &[f32], &mut [f32])),
    Add(unsafe fn(&[f32], &[f32], &mut [f32])),
    Activate(unsafe fn(Activation, &[f32], &mut [f32])),
    Gate(unsafe fn(Activation, &[f32], &[f32], &mut [f32])),
    SoftCap(unsafe fn(f32, &[f32], &mut [f32])),
    Gains(unsafe fn(&[f32], Gate<'_>, &mut [f32])),
    AttentionPrepare(unsafe fn(&PrepareTask<'_>)),
    Attend(unsafe fn(&AttendTask<'_>)),
    KeepPairs(unsafe fn(&PrepareTask<'_>)),
    AttendPairs(unsafe fn(&AttendTask<'_>)),
    Depthwise(unsafe fn(&mut DepthwiseTask<'_>)),
    Winograd(unsafe fn(&mut WinogradTask<'_>)),
    Map(unsafe fn(&mut MapTask<'_>)),
    Softmax(unsafe fn(&[f32], bool, &mut [f32])),
    ChannelRows(unsafe fn(&mut ChannelRowsTask<'_>)),
}

/// One row of the [`kernel_table`].
#[derive(Clone, Copy)]
pub struct KernelRow {
    op: KernelOp,
    values: Option<Values>,
    isa: Isa,
    name: &'static str,
    function: Function,
}

impl KernelRow {
    /// What it computes.
    pub fn op(&self) -> KernelOp {
        self.op
    }

    /// The format of the weight that it reads, for linears.
    pub fn format(&self) -> Option<PackFormat> {
        match self.op {
            KernelOp::Channels => PackFormat::channels(self.values?),
            _ => self.values.map(PackFormat::linear),
        }
    }

    /// The instruction set that it needs.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Its name: `{isa}-{op}`, `{isa}-{values}` or `{isa}-channels-{values}`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether this CPU can run it.
    pub fn available(&self) -> bool {
        self.isa.available()
    }

    /// What it is expected to cost, by which [`Kernels::detect`] chooses: instructions that multiply
    /// and add, for 64 products of the type that it multiplies. `limbeck bench --kernels` compares
    /// the choice with measured times.
    pub fn cost(&self) -> u32 {
        let bytes = self.values.is_some_and(Values::is_quantised);
        match (self.isa, bytes) {
            (Isa::Portable, _) => 64,
            (Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm, false) => 16,
            // Two widening multiplications of 8, and an addition of pairs.
            (Isa::Neon, true) => 12,
            (Isa::NeonDotprod, true) => 4,
            (Isa::NeonI8mm, true) => 2,
            (Isa::Avx2, false) => 8,
            // Two multiply-adds of pairs for 32.
            (Isa::Avx2, true) => 4,
            (Isa::Avx512Bf16, _) => 2,
            (Isa::Avx512Vnni, false) => 4,
            (Isa::Avx512Vnni, true) => 1,
        }
    }

    /// Whether [`Kernels::detect`] chooses it: it is available, and no other row of its op and values
    /// that is so costs less.
    #[inline(never)]
    pub fn selected(&self) -> bool {
        let rivals = kernel_table().filter(|row| (row.op, row.values) == (self.op, self.values));
        self.available()
            && rivals.filter(|row| row.available()).all(|row| self.cost() <= row.cost())
    }
}

impl std::fmt::Debug for KernelRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every row of the table, for tests and benchmarks. Rows that are not
/// [`available`](KernelRow::available) are included.
pub fn kernel_table() -> impl Iterator<Item = &'static KernelRow> {
    rows::PARTS.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const FORMATS: [Values; 6] =
        [Values::F32, Values::F16, Values::Q8, Values::Q8w, Values::Q4, Values::Q4m];

    #[test]
    fn every_instruction_set_has_a_row_per_format() {
        for isa in Isa::ALL {
            for values in FORMATS {
                let rows = kernel_table().filter(|r| {
                    r.op == KernelOp::Linear && r.isa == *isa && r.values == Some(values)
                });
                let here = match isa {
                    Isa::Avx2 | Isa::Avx512Vnni | Isa::Avx512Bf16 => cfg!(target_arch = "x86_64"),
                    Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => cfg!(target_arch = "aarch64"),
                    Isa::Portable => true,
                };
                let expected = usize::from(here && isa.base().is_none());
                assert_eq!(rows.count(), expected, "{isa} {values:?}");
            }
        }
    }

    #[test]
    fn an_instruction_set_is_chosen_by_name_or_refused_by_name() {
        assert_eq!(Kernels::with_isa("portable").unwrap().isa(), Isa::Portable);
        let elsewhere = if cfg!(target_arch = "x86_64") { "neon-i8mm" } else { "avx2" };
        for bad in [elsewhere, "sse9"] {
            let e = Kernels::with_isa(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Isa);
            assert!(e.to_string().contains(bad) && e.to_string().contains("portable"), "{e}");
        }
        assert!(Kernels::detect().isa().available());
    }

    #[test]
    fn one_available_row_of_each_op_and_values_is_selected() {
        for row in kernel_table() {
            let same = |r: &&KernelRow| (r.op, r.values) == (row.op, row.values);
            let selected = kernel_table().filter(same).filter(|r| r.selected());
            // What one instruction set alone has a use for, others do without.
            let expected = usize::from(kernel_table().filter(same).any(|r| r.available()));
            assert_eq!(selected.count(), expected, "{row:?}");
            let pairs = [KernelOp::KeepPairs, KernelOp::AttendPairs].contains(&row.op);
            assert!(expected == 1 || pairs, "{row:?}");
        }
    }
}
