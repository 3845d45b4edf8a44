//! Weights as expressions over checkpoint tensors: what is stored is read and rearranged row by
//! row when it is packed, never as a whole.

use std::sync::Arc;

/// Most parts that a name spells out.
const MAX_NAMES: usize = 3;

/// A two-dimensional weight `[rows, cols]` made from tensors of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorExpr {
    /// A tensor of the checkpoint; a vector is one row.
    Tensor {
        /// Name in the checkpoint.
        name: String,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// How the checkpoint stores it (`f32`, `bf16`, `Q4_1`, ...).
        storage: Arc<str>,
    },
    /// The rows of each part, one part after the other.
    ConcatRows(Vec<TensorExpr>),
    /// Columns of single-row parts, one part after the other.
    ConcatCols(Vec<TensorExpr>),
    /// Groups of `group` rows of the first, then of the second, in turn.
    InterleaveRows {
        /// Gives the leading group.
        first: Box<TensorExpr>,
        /// Gives the following group.
        second: Box<TensorExpr>,
        /// Rows per group; divides the row count of both.
        group: usize,
    },
    /// As `InterleaveRows`, for the columns of single-row weights (biases).
    InterleaveCols {
        /// Gives the leading group.
        first: Box<TensorExpr>,
        /// Gives the following group.
        second: Box<TensorExpr>,
        /// Columns per group.
        group: usize,
    },
    /// `row`'s one row, number `index`, added to every row of `base`.
    AddRow {
        /// The matrix.
        base: Box<TensorExpr>,
        /// Where the row comes from.
        row: Box<TensorExpr>,
        /// Which row of `row`.
        index: usize,
    },
    /// Columns of the base as rows.
    Transpose(Box<TensorExpr>),
    /// Some rows of the base.
    Rows {
        /// The matrix.
        base: Box<TensorExpr>,
        /// The first of them.
        first: usize,
        /// How many.
        count: usize,
    },
    /// Each row is the sum of the base's rows up to it.
    SumRows(Box<TensorExpr>),
    /// Affine maps, one on the result of the other, as one: `w_n ... w_1` or, as one row, its bias.
    Folded {
        /// Weight and bias of each, in the order in which they apply.
        layers: Vec<(TensorExpr, TensorExpr)>,
        /// Whether it is the bias.
        bias: bool,
    },
    /// Each row as a matrix of `rows` rows, transposed: a convolution's weight `[out, in, kh kw]` in
    /// the order of [`limbeck_plan::Conv2d`] has the input channels for these.
    TransposeEach {
        /// The matrix whose rows are matrices.
        base: Box<TensorExpr>,
        /// Rows of each before; divides the columns.
        rows: usize,
    },
    /// A linear map and the batch norm of its results as one, computed in f64: with `s = gamma /
    /// sqrt(variance + eps)`, row `i` of the weight times `s[i]` or, as one row, the bias
    /// `beta - mean s`.
    Normalised {
        /// The map, without a bias of its own.
        base: Box<TensorExpr>,
        /// The norm.
        norm: Box<BatchNorm>,
        /// Whether it is the bias.
        bias: bool,
    },
    /// A linear map whose channels are made more alike, so that less is lost where both are quantised:
    /// with `w[j]` the root mean square of column `j` of `by`, the factors of the channels are
    /// `f[j] = w[j]^.75` (1 where that is no positive number), and column `j` is divided by `f[j]`.
    /// Channels that are large meet small weights, as trained: so the weight alone tells of both what
    /// SmoothQuant (arXiv 2211.10438) takes data for.
    Equalised {
        /// The map.
        base: Box<TensorExpr>,
        /// The rows that the factors are for.
        by: Box<TensorExpr>,
        /// Whether it is the factors, as one row.
        factors: bool,
    },
    /// Values that the compiler computed.
    Inline {
        /// Name for messages.
        name: String,
        /// Rows; divides the number of values.
        rows: usize,
        /// Row after row.
        values: Arc<[f32]>,
    },
}

/// What a batch norm knows of each of its channels, one row each.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm {
    /// Factor.
    pub gamma: TensorExpr,
    /// Added.
    pub beta: TensorExpr,
    /// Running mean.
    pub mean: TensorExpr,
    /// Running variance.
    pub variance: TensorExpr,
    /// Added to the variance.
    pub eps: f64,
}

impl TensorExpr {
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            TensorExpr::Tensor { rows, .. } => *rows,
            TensorExpr::ConcatRows(parts) => parts.iter().map(TensorExpr::rows).sum(),
            TensorExpr::InterleaveRows { first, second, .. } => first.rows() + second.rows(),
            TensorExpr::AddRow { base, .. } => base.rows(),
            TensorExpr::Transpose(base) => base.cols(),
            TensorExpr::Rows { count, .. } => *count,
            TensorExpr::Inline { rows, .. } => *rows,
            TensorExpr::SumRows(base)
            | TensorExpr::TransposeEach { base, .. }
            | TensorExpr::Normalised { base, bias: false, .. }
            | TensorExpr::Equalised { base, factors: false, .. } => base.rows(),
            TensorExpr::Folded { layers, bias: false } => {
                layers.last().map_or(0, |(weight, _)| weight.rows())
            }
            TensorExpr::Folded { bias: true, .. }
            | TensorExpr::Normalised { bias: true, .. }
            | TensorExpr::Equalised { factors: true, .. }
            | TensorExpr::ConcatCols(_)
            | TensorExpr::InterleaveCols { .. } => 1,
        }
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        match self {
            TensorExpr::Tensor { cols, .. } => *cols,
            TensorExpr::ConcatRows(parts) => parts.first().map_or(0, TensorExpr::cols),
            TensorExpr::ConcatCols(parts) => parts.iter().map(TensorExpr::cols).sum(),
            TensorExpr::InterleaveRows { first, .. } => first.cols(),
            TensorExpr::InterleaveCols { first, second, .. } => first.cols() + second.cols(),
            TensorExpr::AddRow { base, .. } => base.cols(),
            TensorExpr::Transpose(base) => base.rows(),
            TensorExpr::Rows { base, .. }
            | TensorExpr::SumRows(base)
            | TensorExpr::TransposeEach { base, .. }
            | TensorExpr::Normalised { base, bias: false, .. }
            | TensorExpr::Equalised { base, .. } => base.cols(),
            TensorExpr::Normalised { base, bias: true, .. } => base.rows(),
            TensorExpr::Folded { layers, bias } => match bias {
                true => layers.last().map_or(0, |(weight, _)| weight.rows()),
                false => layers.first().map_or(0, |(weight, _)| weight.cols()),
            },
            TensorExpr::Inline { rows, values, .. } => values.len() / (*rows).max(1),
        }
    }

    /// A name that tells what it is made of.
    pub fn name(&self) -> String {
        let join = |parts: &[TensorExpr]| match parts {
            [first, .., last] if parts.len() > MAX_NAMES => {
                format!("{} + ... + {} ({} parts)", first.name(), last.name(), parts.len())
            }
            _ => parts.iter().map(TensorExpr::name).collect::<Vec<_>>().join(" + "),
        };
        match self {
            TensorExpr::Tensor { name, .. } | TensorExpr::Inline { name, .. } => name.clone(),
            TensorExpr::ConcatRows(parts) | TensorExpr::ConcatCols(parts) => join(parts),
            TensorExpr::InterleaveRows { first, second, .. }
            | TensorExpr::InterleaveCols { first, second, .. } => {
                format!("{} | {}", first.name(), second.name())
            }
            TensorExpr::AddRow { base, row, index } => {
                format!("{} + {}[{index}]", base.name(), row.name())
            }
            TensorExpr::Transpose(base) => format!("{} transposed", base.name()),
            TensorExpr::Rows { base, first, count } => {
                format!("{}[{first}..{}]", base.name(), first + count)
            }
            TensorExpr::SumRows(base) => format!("sums of {}", base.name()),
            TensorExpr::TransposeEach { base, .. } => base.name(),
            TensorExpr::Normalised { base, norm, bias } => {
                let of = if *bias { &norm.beta } else { base };
                format!("{} normalised", of.name())
            }
            TensorExpr::Equalised { base, factors: true, .. } => {
                format!("factors of {}", base.name())
            }
            TensorExpr::Equalised { base, .. } => format!("{} equalised", base.name()),
            TensorExpr::Folded { layers, bias } => {
                let part =
                    |(w, b): &(TensorExpr, TensorExpr)| if *bias { b.name() } else { w.name() };
                let names: Vec<String> = layers.iter().map(part).collect();
                format!("{} folded", names.join(" x "))
            }
        }
    }

    /// How the checkpoint stores it, if all of it is stored alike.
    pub fn storage(&self) -> Option<&str> {
        match self {
            TensorExpr::Tensor { storage, .. } => Some(storage),
            TensorExpr::ConcatRows(parts) | TensorExpr::ConcatCols(parts) => {
                let first = parts.first()?.storage()?;
                let alike = parts.iter().all(|p| p.storage() == Some(first));
                alike.then_some(first)
            }
            TensorExpr::InterleaveRows { first, second, .. }
            | TensorExpr::InterleaveCols { first, second, .. } => {
                first.storage().filter(|s| second.storage() == Some(s))
            }
            TensorExpr::Transpose(base)
            | TensorExpr::Rows { base, .. }
            | TensorExpr::TransposeEach { base, .. }
            | TensorExpr::Normalised { base, bias: false, .. }
            | TensorExpr::Equalised { base, factors: false, .. } => base.storage(),
            TensorExpr::AddRow { base, row, .. } => {
                base.storage().filter(|s| row.storage() == Some(s))
            }
            TensorExpr::SumRows(_)
            | TensorExpr::Folded { .. }
            | TensorExpr::Normalised { bias: true, .. }
            | TensorExpr::Equalised { factors: true, .. } => None,
            TensorExpr::Inline { .. } => Some("F32"),
        }
    }
}
