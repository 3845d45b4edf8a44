//! Packing: which format each weight gets, and its bytes, streamed some rows at a time, as many times at once as there are
//! cores.

mod policy;
mod source;

use std::io::{Seek, Write};
use std::ops::Range;

use limbeck_graph::TensorExpr;
use limbeck_kernels::{Packed, pack_quant_rows, pack_rows};
use limbeck_plan::{Layout, PackFormat, PlanWriter, Values, Weight};
use rayon::prelude::*;

pub use policy::{Quant, StreamUse, WeightUse, choose_format, needs_precision};

use crate::error::{Error, Result};
use crate::import::Checkpoint;

/// Values that a thread packs at a time; whole groups of rows, so a very wide tensor takes more.
const CHUNK_VALUES: usize = 1 << 18;
/// Rows are packed in multiples of this: every layout's tile divides it.
const CHUNK_ROWS: usize = 16;

/// What packing did to a weight's values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackError {
    /// Sum of squares of the differences from the checkpoint's values.
    squared_error: f64,
    /// Sum of squares of the checkpoint's values.
    squared: f64,
}

impl PackError {
    /// Norm of the difference over norm of the values; 0 where nothing was converted.
    pub fn relative(&self) -> f64 {
        if self.squared > 0.0 { (self.squared_error / self.squared).sqrt() } else { 0.0 }
    }

    /// Adds another weight's error.
    pub fn add(&mut self, other: &PackError) {
        self.squared_error += other.squared_error;
        self.squared += other.squared;
    }
}

/// Packs one weight into the plan and gives its entry and its conversion error (`None` where the
/// checkpoint's own quantised values were kept).
///
/// # Errors
/// Values that are not finite, a tensor that cannot be read, or the sink's error.
pub fn pack_weight<W: Write + Seek>(
    expr: &TensorExpr,
    format: PackFormat,
    checkpoint: &dyn Checkpoint,
    writer: &mut PlanWriter<W>,
) -> Result<(Weight, Option<PackError>)> {
    let (rows, cols) = (expr.rows(), expr.cols());
    let name = expr.name();
    let offset = writer.begin_weight().map_err(Error::from)?;
    let exact = source::quant_values(expr, checkpoint) == Some(format.values);
    let step = (CHUNK_VALUES / cols.max(1)).next_multiple_of(CHUNK_ROWS).max(CHUNK_ROWS);
    let chunks: Vec<_> =
        (0..rows).step_by(step).map(|start| start..rows.min(start + step)).collect();
    let pack = |chunk: &Range<usize>| {
        if exact {
            return pack_exact(expr, checkpoint, chunk.clone());
        }
        pack_floats(expr, format, checkpoint, chunk.clone())
    };
    let mut error = PackError::default();
    let mut bytes = 0;
    // As many as there are threads: each holds its values as floats.
    for chunks in chunks.chunks(rayon::current_num_threads()) {
        for packed in chunks.par_iter().map(pack).collect::<Vec<_>>() {
            let (packed, of_chunk) = packed?;
            writer.append(&packed)?;
            bytes += packed.len() as u64;
            error.add(&of_chunk);
        }
    }
    let weight = Weight { name, format, rows, cols, offset, bytes };
    Ok((weight, (!exact).then_some(error)))
}

/// Rows that the checkpoint has in the plan's numbers.
fn pack_exact(
    expr: &TensorExpr,
    checkpoint: &dyn Checkpoint,
    rows: Range<usize>,
) -> Result<(Vec<u8>, PackError)> {
    let quantised = source::read_quant_rows(expr, checkpoint, rows)?;
    let mut packed = Vec::new();
    pack_quant_rows(&quantised, &mut packed)?;
    Ok((packed, PackError::default()))
}

/// Rows of floats, and what the format makes of their values.
fn pack_floats(
    expr: &TensorExpr,
    format: PackFormat,
    checkpoint: &dyn Checkpoint,
    rows: Range<usize>,
) -> Result<(Vec<u8>, PackError)> {
    let (mut floats, mut packed) = (Vec::new(), Vec::new());
    source::read_rows(expr, checkpoint, rows, &mut floats)?;
    if let Some(bad) = floats.iter().find(|v| !v.is_finite()) {
        let message = format!("it holds the value {bad}");
        return Err(Error::mismatch(message).at(format_args!("tensor {}", expr.name())));
    }
    pack_chunk(format, expr.cols(), &floats, &mut packed)
        .map_err(|e| e.at(format_args!("tensor {}", expr.name())))?;
    let mut error = PackError::default();
    if format.values != Values::F32 {
        measure(format, expr.cols(), &floats, &packed, &mut error)?;
    }
    Ok((packed, error))
}

fn pack_chunk(format: PackFormat, cols: usize, rows: &[f32], out: &mut Vec<u8>) -> Result<()> {
    if format.values == Values::F16 && rows.iter().any(|v| v.abs() > 65504.0) {
        return Err(Error::mismatch("its values do not fit f16; compile with --quant f32"));
    }
    if format.layout == Layout::Row && format.values == Values::F32 {
        out.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
        return Ok(());
    }
    Ok(pack_rows(format, cols, rows, out)?)
}

fn measure(
    format: PackFormat,
    cols: usize,
    rows: &[f32],
    packed: &[u8],
    error: &mut PackError,
) -> Result<()> {
    let view = Packed::new(format, rows.len() / cols, cols, packed)?;
    let mut unpacked = vec![0.0; cols];
    for (i, row) in rows.chunks_exact(cols).enumerate() {
        view.unpack_row(i, &mut unpacked)?;
        for (a, b) in row.iter().zip(&unpacked) {
            error.squared_error += f64::from(a - b).powi(2);
            error.squared += f64::from(*a).powi(2);
        }
    }
    Ok(())
}
