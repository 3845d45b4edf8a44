//! The rows of each instruction set, and their entry points.

use crate::adaptive::{Gate, gains_row};
use crate::attention::{AttendTask, PrepareTask, attend_task, prepare_task};
use crate::elementwise::{activate_row, add_row, gate_row, soft_cap_row};
use crate::images::{DepthwiseTask, WinogradTask, depthwise_task, winograd_task};
use crate::isa::{Isa, Portable};
use crate::linear::{
    ActBlock, ChannelTask, FindTask, LinearTask, Panels, PortableChannels, PortableQuads, Q4, Q4M,
    Q8, Q8W, find_active, keep_row, quantise_row, retile_portable, run as run_linear, run_channels,
    run_float_channels,
};
use crate::norm::{NormArgs, norm_row};
use crate::tensors::{ChannelRowsTask, MapTask, channel_rows_task, map_chunk, softmax_row};
use limbeck_plan::{Activation, Values};

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

use super::{Function, KernelOp, KernelRow};

/// Entry points of one instruction set, and their table rows. With `like BASE`, only products with
/// quantised weights are its own; the other entry points are those of the module `BASE`.
macro_rules! entries {
    (
        $module:ident, $isa:expr, $prefix:literal, $token:expr, $panels:ident, $quads:ident,
        $channels:ident, $find:ident, $retile:ident
        $(, #[$feature:meta])?
    ) => {
        pub(super) mod $module {
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
        pub(super) mod $module {
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
        pub(in crate::table) unsafe fn $name($($arg: $ty),*) $(-> $result)? {
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

pub(super) const PARTS: &[&[KernelRow]] = &[
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
