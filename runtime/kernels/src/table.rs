//! The kernel table: one row per op, values and instruction set, and the choice among its rows.

use crate::adaptive::{Gate, gains_row};
use crate::attention::{AttendTask, PrepareTask, attend_task, prepare_task};
use crate::elementwise::{activate_row, add_row, gate_row, soft_cap_row};
use crate::error::{Error, ErrorKind};
use crate::images::{DepthwiseTask, WinogradTask, depthwise_task, winograd_task};
use crate::isa::{Isa, Portable};
use crate::linear::{
    ActBlock, ChannelTask, FindTask, LinearTask, Panels, PortableChannels, PortableQuads, Q4, Q4M,
    Q8, Q8W, RetileTask, find_active, keep_row, quantise_row, retile_portable, run as run_linear,
    run_channels, run_float_channels,
};
use crate::norm::{NormArgs, norm_row};
use crate::tensors::{ChannelRowsTask, MapTask, channel_rows_task, map_chunk, softmax_row};
use limbeck_plan::{Activation, Layout, PackFormat, Values};

#[cfg(target_arch = "x86_64")]
use crate::attention::{attend_pairs, keep_pairs};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512, Avx512Bf16};
#[cfg(target_arch = "x86_64")]
use crate::linear::{
    Avx2Channels, Avx512Channels, Avx512Panels, Avx512Quads, Quads, find_active_avx2,
    find_active_avx512, retile_sse,
};

#[cfg(target_arch = "aarch64")]
use crate::isa::{Neon, NeonDotprod, NeonI8mm};
#[cfg(target_arch = "aarch64")]
use crate::linear::{NeonChannels, Quads, retile_neon};

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelOp {
    /// Products of rows with a packed weight, and their epilogue.
    Linear,
    /// The same for a few rows and a weight in channels.
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
        let format = self.values.map(PackFormat::linear)?;
        let channels = self.op == KernelOp::Channels;
        Some(if channels { PackFormat { layout: Layout::Channels, ..format } } else { format })
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

/// Entry points of one instruction set, and their table rows. With `like BASE`, only products with
/// quantised weights are its own; the other entry points are those of the module `BASE`.
macro_rules! entries {
    (
        $module:ident, $isa:expr, $prefix:literal, $token:expr, $panels:ident, $quads:ident,
        $channels:ident, $find:ident, $retile:ident
        $(, #[$feature:meta])?
    ) => {
        mod $module {
            use super::*;

            entries!(@fns [$(#[$feature])?] $token,
                linear_f32(task: &LinearTask<'_>) = run_linear($panels::<false>, task);
                linear_f16(task: &LinearTask<'_>) = run_linear($panels::<true>, task);
                channels_f16(task: &ChannelTask<'_>) = run_float_channels(task);
                find(task: &mut FindTask<'_>) = $find(task);
                keep(weights: &[f32], threshold: f32, x: &mut [f32]) -> usize
                    = keep_row(weights, threshold, x);
                quantise(
                    x: &[f32], factors: Option<&[f32]>, values: Values, q: &mut [i8],
                    blocks: &mut [ActBlock]
                ) = quantise_row(x, factors, values, q, blocks);
                norm(args: &NormArgs<'_>, x: &[f32], out: &mut [f32]) = norm_row(args, x, out);
                add(a: &[f32], b: &[f32], out: &mut [f32]) = add_row(a, b, out);
                activate(activation: Activation, x: &[f32], out: &mut [f32])
                    = activate_row(activation, x, out);
                gate(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32])
                    = gate_row(activation, gate, up, out);
                soft_cap(cap: f32, x: &[f32], out: &mut [f32]) = soft_cap_row(cap, x, out);
                gains(x: &[f32], gate: Gate<'_>, out: &mut [f32]) = gains_row(x, gate, out);
                prepare(task: &PrepareTask<'_>) = prepare_task(task);
                attend(task: &AttendTask<'_>) = attend_task(task);
                depthwise(task: &mut DepthwiseTask<'_>) = depthwise_task(task);
                winograd(task: &mut WinogradTask<'_>) = winograd_task(task);
                map(task: &mut MapTask<'_>) = map_chunk(task);
                softmax(x: &[f32], log: bool, out: &mut [f32]) = softmax_row(x, log, out);
                channel_rows(task: &mut ChannelRowsTask<'_>) = channel_rows_task(task);
            );
            entries!(@quantised [$(#[$feature])?] $token, $quads, $channels);
            entries!(@rows $isa, $prefix, $retile);
        }
    };
    (
        $module:ident like $base:ident, $isa:expr, $prefix:literal, $token:expr, $quads:ident,
        $channels:ident, $retile:ident, #[$feature:meta]
    ) => {
        mod $module {
            use super::$base::{
                activate, add, attend, channel_rows, channels_f16, depthwise, find, gains, gate, keep,
                linear_f16, linear_f32, map, norm, prepare, quantise, soft_cap, softmax,
                winograd,
            };
            use super::*;

            entries!(@quantised [#[$feature]] $token, $quads, $channels);
            entries!(@rows $isa, $prefix, $retile);
        }
    };
    (@quantised $attributes:tt $token:expr, $quads:ident, $channels:ident) => {
        entries!(@fns $attributes $token,
            linear_q8(task: &LinearTask<'_>) = run_linear($quads::<Q8>, task);
            linear_q8w(task: &LinearTask<'_>) = run_linear($quads::<Q8W>, task);
            linear_q4(task: &LinearTask<'_>) = run_linear($quads::<Q4>, task);
            linear_q4m(task: &LinearTask<'_>) = run_linear($quads::<Q4M>, task);
            channels_q8(task: &ChannelTask<'_>) = run_channels($channels::<Q8>, task);
            channels_q4(task: &ChannelTask<'_>) = run_channels($channels::<Q4>, task);
            channels_q4m(task: &ChannelTask<'_>) = run_channels($channels::<Q4M>, task);
        );
    };
    (@rows $isa:expr, $prefix:literal, $retile:ident) => {
        pub(super) const ROWS: &[KernelRow] = &[
            entries!(@row $isa, $prefix, "f32", Linear, Some(Values::F32), linear_f32),
            entries!(@row $isa, $prefix, "f16", Linear, Some(Values::F16), linear_f16),
            entries!(@row $isa, $prefix, "q8", Linear, Some(Values::Q8), linear_q8),
            entries!(@row $isa, $prefix, "q8w", Linear, Some(Values::Q8w), linear_q8w),
            entries!(@row $isa, $prefix, "q4", Linear, Some(Values::Q4), linear_q4),
            entries!(@row $isa, $prefix, "q4m", Linear, Some(Values::Q4m), linear_q4m),
            entries!(
                @row $isa, $prefix, "channels-f16", Channels, Some(Values::F16), channels_f16
            ),
            entries!(
                @row $isa, $prefix, "channels-q8", Channels, Some(Values::Q8), channels_q8
            ),
            entries!(
                @row $isa, $prefix, "channels-q4", Channels, Some(Values::Q4), channels_q4
            ),
            entries!(
                @row $isa, $prefix, "channels-q4m", Channels, Some(Values::Q4m), channels_q4m
            ),
            entries!(@row $isa, $prefix, "find-active", FindActive, None, find),
            entries!(@row $isa, $prefix, "keep", Keep, None, keep),
            entries!(@row $isa, $prefix, "retile", Retile, None, $retile),
            entries!(@row $isa, $prefix, "quantise", Quantise, None, quantise),
            entries!(@row $isa, $prefix, "norm", Norm, None, norm),
            entries!(@row $isa, $prefix, "add", Add, None, add),
            entries!(@row $isa, $prefix, "activate", Activate, None, activate),
            entries!(@row $isa, $prefix, "gate", Gate, None, gate),
            entries!(@row $isa, $prefix, "soft-cap", SoftCap, None, soft_cap),
            entries!(@row $isa, $prefix, "gains", Gains, None, gains),
            entries!(@row $isa, $prefix, "prepare", AttentionPrepare, None, prepare),
            entries!(@row $isa, $prefix, "attend", Attend, None, attend),
            entries!(@row $isa, $prefix, "depthwise", Depthwise, None, depthwise),
            entries!(@row $isa, $prefix, "winograd", Winograd, None, winograd),
            entries!(@row $isa, $prefix, "map", Map, None, map),
            entries!(@row $isa, $prefix, "softmax", Softmax, None, softmax),
            entries!(@row $isa, $prefix, "channel-rows", ChannelRows, None, channel_rows),
        ];
    };
    (@fns $attributes:tt $token:expr, $(
        $name:ident $args:tt $(-> $result:ty)? = $path:ident $pass:tt;
    )*) => {
        $(entries!{@one $attributes $token, $name, $args, ($($result)?), $path, $pass})*
    };
    (@one [$($attribute:tt)*] $token:expr, $name:ident, ($($arg:ident: $ty:ty),*),
        ($($result:ty)?), $path:ident, ($($pass:expr),*)) => {
        /// # Safety
        /// The CPU has the module's instruction set; the rest is the wrapped function's contract.
        $($attribute)*
        pub(super) unsafe fn $name($($arg: $ty),*) $(-> $result)? {
            // SAFETY: the caller's contract covers the token and the wrapped function.
            #[allow(unused_unsafe, reason = "some of the wrapped functions are safe")]
            unsafe { $path($token, $($pass),*) }
        }
    };
    (@row $isa:expr, $prefix:literal, $name:literal, $op:ident, $values:expr, $function:ident) => {
        KernelRow {
            op: KernelOp::$op,
            values: $values,
            isa: $isa,
            name: concat!($prefix, "-", $name),
            function: Function::$op($function),
        }
    };
}

#[cfg(target_arch = "x86_64")]
entries!(
    avx2, Isa::Avx2, "avx2", Avx2::assume(), Panels, Quads,
    Avx2Channels, find_active_avx2, retile_sse,
    #[target_feature(enable = "avx2,fma,f16c")]
);
#[cfg(target_arch = "x86_64")]
entries!(
    avx512, Isa::Avx512Vnni, "avx512-vnni", Avx512::assume(), Avx512Panels, Avx512Quads,
    Avx512Channels, find_active_avx512, retile_sse,
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
);
#[cfg(target_arch = "x86_64")]
mod avx512_bf16 {
    use super::*;

    entries!(
        @fns [#[target_feature(
            enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16"
        )]]
        Avx512Bf16::assume(),
        keep(task: &PrepareTask<'_>) = keep_pairs(task);
        attend(task: &AttendTask<'_>) = attend_pairs(task);
    );

    pub(super) const ROWS: &[KernelRow] = &[
        entries!(@row Isa::Avx512Bf16, "avx512-bf16", "keep-pairs", KeepPairs, None, keep),
        entries!(@row Isa::Avx512Bf16, "avx512-bf16", "attend-pairs", AttendPairs, None, attend),
    ];
}
#[cfg(target_arch = "aarch64")]
entries!(
    neon, Isa::Neon, "neon", Neon::assume(), Panels, Quads,
    NeonChannels, find_active, retile_neon,
    #[target_feature(enable = "neon")]
);
#[cfg(target_arch = "aarch64")]
entries!(
    neon_dotprod like neon, Isa::NeonDotprod, "neon-dotprod", NeonDotprod::assume(), Quads,
    NeonChannels, retile_neon,
    #[target_feature(enable = "neon,dotprod")]
);
#[cfg(target_arch = "aarch64")]
entries!(
    neon_i8mm like neon, Isa::NeonI8mm, "neon-i8mm", NeonI8mm::assume(), Quads,
    NeonChannels, retile_neon,
    #[target_feature(enable = "neon,dotprod,i8mm")]
);
entries!(
    portable,
    Isa::Portable,
    "portable",
    Portable::TOKEN,
    Panels,
    PortableQuads,
    PortableChannels,
    find_active,
    retile_portable
);

const PARTS: &[&[KernelRow]] = &[
    #[cfg(target_arch = "x86_64")]
    avx512::ROWS,
    #[cfg(target_arch = "x86_64")]
    avx512_bf16::ROWS,
    #[cfg(target_arch = "x86_64")]
    avx2::ROWS,
    #[cfg(target_arch = "aarch64")]
    neon_i8mm::ROWS,
    #[cfg(target_arch = "aarch64")]
    neon_dotprod::ROWS,
    #[cfg(target_arch = "aarch64")]
    neon::ROWS,
    portable::ROWS,
];

/// Every row of the table, for tests and benchmarks. Rows that are not
/// [`available`](KernelRow::available) are included.
pub fn kernel_table() -> impl Iterator<Item = &'static KernelRow> {
    PARTS.iter().copied().flatten()
}

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
    /// The contract of `linear::run_channels`, and the weight has these values.
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

#[cfg(test)]
mod tests {
    use super::*;

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
