//! The ops on tensors of any rank. A tensor's sizes are dim expressions, outermost first, bound by
//! what the caller gives; its elements are row-major f32, or i32 for integers and truth values (0
//! and 1). An f32 tensor may be a weight that is stored row by row.

use serde::{Deserialize, Serialize};

use super::{Activation, Window};
use crate::Dim;

/// Axes that a tensor may have at most.
pub const MAX_RANK: usize = 8;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unary {
    /// `-x`, of integers too.
    Neg,
    /// `|x|`, of integers too.
    Abs,
    /// -1, 0 or 1, of integers too; NaN for NaN.
    Sign,
    /// Square root.
    Sqrt,
    /// `e^x`.
    Exp,
    /// Natural logarithm.
    Log,
    /// `1 / x`.
    Reciprocal,
    /// Error function.
    Erf,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// The next integer below.
    Floor,
    /// The next integer above.
    Ceil,
    /// The nearest integer, ties to even.
    Round,
    /// Whether it is NaN, as an integer.
    IsNan,
    /// Whether an integer is 0.
    Not,
    /// An integer as a float.
    ToFloat,
    /// A float as an integer: rounded towards 0, held within i32, 0 for NaN.
    ToInteger,
    /// Whether it is not 0, as an integer.
    ToTruth,
    /// The nearest number that a float of 16 bits (IEEE 754) holds, ties to even.
    ToF16,
    /// The nearest number that a bfloat16 holds, ties to even.
    ToBf16,
    /// An activation.
    #[serde(untagged)]
    Activation(Activation),
}

/// A function of two numbers of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// `a + b`; integers wrap around, here and below.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`; of integers rounded towards 0, and 0 where `b` is 0.
    Div,
    /// `a - b floor(a / b)`: the remainder with the sign of `b`; of integers 0 where `b` is 0.
    Mod,
    /// The remainder with the sign of `a`; of integers 0 where `b` is 0.
    Rem,
    /// `a^b`, of floats.
    Pow,
    /// The smaller; NaN where either is.
    Min,
    /// The larger; NaN where either is.
    Max,
    /// `a = b`, as an integer.
    Eq,
    /// `a < b`, as an integer.
    Lt,
    /// `a <= b`, as an integer.
    Le,
    /// Whether both integers are not 0.
    And,
    /// Whether an integer is not 0.
    Or,
    /// Whether one of the integers is not 0 and the other is.
    Xor,
}

/// A step of [`Map`]; numbers name earlier steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapStep {
    /// An element of this input.
    Input(usize),
    /// A float.
    Float(#[serde(with = "number")] f32),
    /// An integer.
    Integer(i32),
    /// A function of one.
    Unary(Unary, usize),
    /// A function of two.
    Binary(Binary, usize, usize),
    /// The second where the first, an integer, is not 0, else the third.
    Select(usize, usize, usize),
}

/// Elementwise computation: `x_i [..] -> [..]`, the last step's value for each element of the inputs'
/// common shape.
///
/// Shapes are aligned at their last axes, and an axis of size 1 repeats (as in numpy). Where two sizes
/// are different expressions, neither known to be 1, they must be equal in each call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Map {
    /// How many inputs there are.
    pub inputs: usize,
    /// In order; at least one and at most [`Map::MAX_STEPS`].
    pub steps: Vec<MapStep>,
}

impl Map {
    /// Steps at most.
    pub const MAX_STEPS: usize = 64;
    /// Inputs at most.
    pub const MAX_INPUTS: usize = 16;
}

/// Matrix products: `a [.., M, K], b [.., K, N] -> [.., M, N]`, times `scale`. The axes before are
/// those of both, where one of size 1 repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// `b` is `[.., N, K]`.
    pub transposed: bool,
    /// Finite.
    pub scale: f32,
}

/// How [`Reduce`] makes one number of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Sum, of integers too.
    Sum,
    /// Mean.
    Mean,
    /// Product, of integers too.
    Prod,
    /// The largest, of integers too; NaN where there is one.
    Max,
    /// The smallest, of integers too; NaN where there is one.
    Min,
    /// Square root of the sum of squares.
    L2,
    /// Sum of magnitudes.
    L1,
    /// Sum of squares.
    SumSquares,
    /// The index of the largest, the first among equals, as an integer; along one axis.
    ArgMax,
    /// The index of the smallest, the first among equals, as an integer; along one axis.
    ArgMin,
}

/// Reduces axes: `x [..] -> [..]` with size 1 in the place of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// Rule.
    pub reduction: Reduction,
    /// Ascending.
    pub axes: Vec<usize>,
}

/// The same elements in other sizes: `x [..] -> shape`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// As many elements in each call.
    pub shape: Vec<Dim>,
}

/// Axes in another order: axis `i` of the result is axis `order[i]` of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// Each axis once.
    pub order: Vec<usize>,
}

/// Repeats axes of size 1: `x [..] -> shape`, aligned at the last axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expand {
    /// Sizes.
    pub shape: Vec<Dim>,
}

/// Every `step`-th of the elements along an axis, `count` of them from `start` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Axis.
    pub axis: usize,
    /// The first index.
    pub start: Dim,
    /// How many.
    pub count: Dim,
    /// Not 0; negative goes backwards.
    pub step: i64,
}

/// Tensors one after the other along an axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// How many there are.
    pub inputs: usize,
    /// Axis.
    pub axis: usize,
}

/// What [`Pad`] puts around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// A value.
    Constant,
    /// The nearest element.
    Edge,
    /// What a mirror on the outermost element shows.
    Reflect,
    /// What comes from the other end.
    Wrap,
}

/// Adds elements at the ends of axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// What is added.
    pub padding: Padding,
    /// For each axis, how many before.
    pub before: Vec<usize>,
    /// For each axis, how many after.
    pub after: Vec<usize>,
    /// The value of [`Padding::Constant`]; rounded for integers.
    #[serde(with = "number")]
    pub value: f32,
}

/// Elements along an axis by their indices: `x [A.., n, B..], i32 [I..] -> [A.., I.., B..]`. Negative
/// indices count from the end; others that do not exist are an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// Axis.
    pub axis: usize,
}

/// Elements by an index for each: `x, i32 [..] -> [..]`, of the same rank. Along the axis an index,
/// as [`Gather`] takes it, says which; in the other axes it is that of the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherElements {
    /// Axis.
    pub axis: usize,
}

/// Softmax along the last axis. Where the largest is `-inf` all are, and the result is NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// The logarithm of it.
    pub log: bool,
}

/// Attention of tensors' matrices: `q [.., M, K], k [.., N, K], v [.., N, V], (mask [..])? -> [.., M, V]`,
/// `softmax(scale q k^T + mask) v`. The axes before are those of all three, where one of size 1 repeats; the
/// mask repeats to `[.., M, N]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attend {
    /// Finite.
    pub scale: f32,
    /// Whether a mask is added to the scores.
    pub mask: bool,
    /// `k` is `[.., K, N]`.
    pub keys_turned: bool,
    /// `v` is `[.., V, N]`.
    pub values_turned: bool,
    /// Weights that are NaN count as 0: those of a row whose scores are all `-inf` are.
    pub zero_nan: bool,
}

/// Normalises groups of channels over all positions of an image: `x [batch, .., C], weight [C], (bias
/// [C])? -> ` the same shape. `act((v - mean) / sqrt(var + eps) * weight + bias)`, mean and variance being
/// those of a group's `C / groups` channels at all positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Divides the channels.
    pub groups: usize,
    /// Added under the root.
    pub eps: f32,
    /// Whether a bias operand follows the weight.
    pub bias: bool,
    /// Applied last.
    pub activation: Activation,
}

/// The mean of each channel in the window: `x [batch, h, w, C] -> [batch, h', w', C]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePool2d {
    /// Where it looks.
    pub window: Window,
    /// Pixels of the padding count as zeros; otherwise they are left out.
    pub count_padding: bool,
}

/// A transposed convolution: `x [batch, h, w, C], weight [kh kw N, C], (bias [N])? ->
/// [batch, h', w', N]`.
///
/// Pixel `o` of the result sums `weight[k] x[i]` over `i stride + k dilation - before = o`. The weight
/// has a row for each of the window's pixels and outputs, those of a pixel side by side: a linear makes
/// of a pixel what it gives to its neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTranspose2d {
    /// Rows and columns of pixels that a pixel gives to.
    pub kernel: [usize; 2],
    /// Distance of two neighbours' windows, down and to the right.
    pub stride: [usize; 2],
    /// Pixels cut above, at the left, below and at the right.
    pub padding: [usize; 4],
    /// Distance of the pixels that a pixel gives to.
    pub dilation: [usize; 2],
    /// Pixels added below and at the right.
    pub output_padding: [usize; 2],
    /// Whether a bias operand follows the weight.
    pub bias: bool,
}

/// What [`Resize`] takes for a pixel between others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest, rounding half down.
    NearestFloorHalf,
    /// The nearest, rounding half up.
    NearestCeilHalf,
    /// The one before.
    NearestFloor,
    /// The one after.
    NearestCeil,
    /// Between its neighbours, in proportion.
    Linear,
}

/// Where [`Resize`] finds pixel `o` of `n'` among `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// `o / scale`.
    Asymmetric,
    /// `(o + 0.5) / scale - 0.5`.
    HalfPixel,
    /// The same, and 0 where `n'` is 1.
    PytorchHalfPixel,
    /// `o (n - 1) / (n' - 1)`.
    AlignCorners,
}

/// Resizes images: `x [batch, h, w, C] -> [batch, h', w', C]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// `h'` and `w'`.
    pub sides: [Dim; 2],
    /// The scale of each side; where it is not known, `h' / h`.
    pub scales: Option<[f32; 2]>,
    /// What lies between.
    pub interpolation: Interpolation,
    /// Where it lies.
    pub coordinates: Coordinates,
}

/// Sizes of the call as a tensor: `-> i32 [sizes]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Each below 2^31.
    pub sizes: Vec<Dim>,
}

/// `start, start + step, ..`: `-> i32 [count]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// How many.
    pub count: Dim,
    /// The first.
    pub start: i32,
    /// Added each time.
    pub step: i32,
}

/// A long short-term memory (Hochreiter and Schmidhuber 1997, with forget gates): `x [T, batch, K], w
/// [D, 4 H, K], r [D, 4 H, H], (b [D, 8 H])?, (h, c [D, batch, H])? -> [T + 1, D, batch, H]`, the last
/// row being the cells at the end.
///
/// Gates come in the order input, output, forget, cell. `b` is what is added to `w x`, and then what
/// is added to `r h`. Without `h` and `c` they are zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lstm {
    /// Which way each of the `D` directions goes, 1 or 2 of them: from the end where it is set.
    pub reverse: Vec<bool>,
    /// Whether `b` is given.
    pub bias: bool,
    /// Whether `h` and `c` are given.
    pub state: bool,
}

/// Numbers that JSON has not as words.
mod number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Known(f32),
        Named(String),
    }

    pub fn serialize<S: Serializer>(v: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        match *v {
            v if v.is_nan() => serializer.serialize_str("nan"),
            f32::INFINITY => serializer.serialize_str("inf"),
            f32::NEG_INFINITY => serializer.serialize_str("-inf"),
            v => serializer.serialize_f32(v),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        match Number::deserialize(deserializer)? {
            Number::Known(v) => Ok(v),
            Number::Named(name) => match name.as_str() {
                "nan" => Ok(f32::NAN),
                "inf" => Ok(f32::INFINITY),
                "-inf" => Ok(f32::NEG_INFINITY),
                _ => Err(D::Error::custom(format!("{name:?} is no number"))),
            },
        }
    }
}
