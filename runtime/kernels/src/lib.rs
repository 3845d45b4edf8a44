//! The CPU kernels of Limbeck behind safe functions, one per op.
//!
//! Activations are row-major f32. Weights come as [`Packed`] views of a plan's bytes. A row's
//! result is bit-identical whatever the number of rows in the call, the other rows, the chunking
//! of a sequence and the number of threads, for one instruction set: each output element has one
//! order of reduction, and parallelism comes from several outputs or rows.
//!
//! - [`Kernels`] chooses one row of the [`kernel_table`] per op and format, by [`Isa`].
//! - [`Pool`] runs short parallel regions.
//! - [`linear`], [`conv2d`], [`attention`], [`norm`], [`adaptive_mlp`], [`moe_mlp`] and the smaller
//!   ops compute.
//! - [`KvCache`] keeps keys and values of sequences that share prefixes.
//! - [`pack_rows`] and [`pack_quant_rows`] write weights.
//! - [`rates`] times the rows of the table and measures what the machine can do at most.
//! - [`mod@reference`] has the slow, obviously right version of each op.

mod adaptive;
mod attention;
mod channels;
mod elementwise;
mod error;
mod images;
mod isa;
mod kv;
mod linear;
mod math;
mod norm;
mod packed;
mod patches;
mod pool;
mod quantise;
pub mod rates;
pub mod reference;
mod rows;
mod simd;
pub mod sync;
mod table;
mod tensors;

pub use adaptive::{
    AdaptiveMlpArgs, AdaptiveScratch, ChooseArgs, MixArgs, MoeMlpArgs, MoeScratch, adaptive_mlp,
    choose, mix, moe_mlp,
};
pub use attention::{AttentionArgs, AttentionScratch, Qkv, Span, attention};
pub use channels::repack_tile;
pub use elementwise::{activate, add, gate, soft_cap};
pub use error::{Error, ErrorKind};
pub use images::{
    Conv2dArgs, ConvScratch, DepthwiseConv2dArgs, conv2d, depthwise_conv2d, max_pool2d, pixels,
};
#[cfg(target_arch = "x86_64")]
pub use isa::Avx2;
pub use isa::{Isa, Portable};
#[cfg(target_arch = "aarch64")]
pub use isa::{Neon, NeonDotprod, NeonI8mm};
pub use kv::{BlockMemory, BlockTable, KV_BLOCK, KvCache, KvConfig, KvLayer, KvType, SeqId};
pub use linear::{LinearArgs, LinearScratch, Sparsity, SparsityRead, linear, sparse_linear};
pub use norm::{NormArgs, norm};
pub use packed::{Packed, pack_quant_rows, pack_rows};
pub use patches::patches;
pub use pool::Pool;
pub use quantise::{QuantRows, quantise_rows};
pub use rows::{Rows, embedding, pool_sequences, select_rows};
pub use table::{KernelOp, KernelRow, Kernels, kernel_table};
pub use tensors::{
    ConvTranspose2dArgs, Elements, ElementsMut, Place as ResizePlace, TensorArg, TensorOut,
    TensorScratch, conv_transpose2d, place as resize_place, tensor,
};

/// Bytes that a vector has taken from the system.
pub(crate) fn vec_bytes<T>(vector: &Vec<T>) -> usize {
    vector.capacity() * size_of::<T>()
}

/// Makes memory that is kept between calls at least `len` long.
pub(crate) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// The first `len` values of such memory.
pub(crate) fn first_of<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    grow(buffer, len);
    &mut buffer[..len]
}
