//! The ops and their typed parameters. An op is named `limbeck:<name>@<version>` in the file.
//!
//! Shapes below use `T` for the rows (tokens) of a call. Every activation is row-major f32.

mod images;
mod onnx;
mod tensors;

pub use images::*;
pub use onnx::*;
pub use tensors::*;

use serde::{Deserialize, Serialize};

/// Elementwise activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x`.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `0.5 x (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x min(max(x / 6 + 0.5, 0), 1)`.
    HardSwish,
}

/// The formula of a norm over the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`.
    Rms,
    /// `(x - mean) / sqrt(var + eps) * weight + bias`.
    Layer,
}

/// Which two elements of a head a rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// Element `i` with `i + rotary/2` (GPT-NeoX, Hugging Face).
    Half,
    /// Element `2i` with `2i + 1` (GPT-J).
    Interleaved,
}

/// How [`Op::Pool`] reduces a sequence to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of the sequence's valid rows.
    Mean,
    /// The first row.
    Cls,
    /// The last valid row.
    Last,
}

/// Gathers rows of a table: `ids [T] i32, table [V, H] -> [T, H]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// The rows are multiplied by this.
    pub scale: f32,
}

/// A matrix product with a packed weight and a fused epilogue.
///
/// `x [T, K], weight [N, K], (bias [N] f32)?, (residual [T, N'])?, (factors [K] f32)? -> [T, N']` with
/// `y = act((x * factors) weight^T + bias) + residual`. Without `gated`, `N' = N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Whether a bias operand follows the weight.
    pub bias: bool,
    /// Applied before the residual is added.
    pub activation: Activation,
    /// The weight's rows are pairs of groups of 8: 8 gate rows, then the 8 up rows of the same
    /// hidden units. `N' = N / 2` and `y = act(gate) * up + residual`. `N` is a multiple of 16.
    pub gated: bool,
    /// Whether a residual operand follows.
    pub residual: bool,
    /// Whether factors come last: channels of `x` that are larger than others are made smaller, and
    /// their columns of the weight larger, so that both lose less where they are quantised
    /// (SmoothQuant, arXiv 2211.10438).
    #[serde(default)]
    pub factors: bool,
    /// Where the weight is quantised, activations meet it in two 8-bit parts, the second for what
    /// the first leaves over: 15 bits for twice the products.
    #[serde(default)]
    pub precise: bool,
}

/// Normalises each row: `x [T, H], weight [H], (bias [H])? -> [T, H]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Formula.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Whether a bias operand follows the weight.
    pub bias: bool,
}

/// `a [T, H], b [T, H] -> [T, H]`, elementwise sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {}

/// Elementwise activation: `x [T, H] -> [T, H]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activate {
    /// Function.
    pub activation: Activation,
}

/// Gated activation: `gate [T, H], up [T, H] -> [T, H]`, `act(gate) * up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Function.
    pub activation: Activation,
}

/// Rotary position embedding applied inside attention to queries and keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Pairing.
    pub style: RopeStyle,
    /// Leading elements of each head that turn; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Cosine and sine are multiplied by this (yarn's attention factor; 1 otherwise).
    pub factor: f32,
}

/// Multi-head attention with grouped heads, optional per-head RMS norm of queries and keys,
/// optional rotary embedding, and an optional KV cache.
///
/// Operands, in order: `qkv [T, (heads + 2 kv_heads) head_dim]` (queries, keys, values side by
/// side) when `fused`, else `q`, `k`, `v`; `q_norm [head_dim]`, `k_norm [head_dim]` when
/// `qk_norm_eps` is set; `inv_freq [rotary_dim / 2]` when `rope` is set. Result
/// `[T, heads head_dim]`. Order of work: norm, rope, append to the cache, attend. Rows of a call
/// belong to sequences as its batch says; a row attends within its own sequence only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// A row sees rows at its own position and before; otherwise every valid row.
    pub causal: bool,
    /// A causal row sees only this many positions, its own included.
    pub window: Option<usize>,
    /// Whether queries, keys and values come as one operand.
    pub fused: bool,
    /// Epsilon of the RMS norm over each query and key head.
    pub qk_norm_eps: Option<f32>,
    /// Rotary embedding.
    pub rope: Option<Rope>,
    /// The append state that keys and values go to; `None` attends within the call.
    pub state: Option<usize>,
}

/// Keeps the rows that the caller asked outputs for: `x [T, H] -> [outputs, H]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectRows {}

/// Reduces each sequence to one row: `x [T, H] -> [sequences, H]`, or `x [sequences n, H]` with the
/// same number of rows for each, as the pixels of an image are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Rule.
    pub pooling: Pooling,
    /// Divide each result by its Euclidean norm (at least 1e-12).
    pub normalise: bool,
}

/// Soft cap on values: `x -> cap * tanh(x / cap)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoftCap {
    /// The cap, > 0.
    pub cap: f32,
}

/// What a site's gate turns its affine outputs into before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateTransform {
    /// `x`.
    Identity,
    /// `-exp(2 x)`: the gate predicts the logarithm of a relative error.
    NegExp2,
}

/// A site's choice for each token: `x [T, K], gate [C, K], bias [C] -> [T] i32`.
///
/// `gain = transform(gate x + bias)` in f32, and the choice is
/// `first + argmax_k(gain[k] - price * weight * costs[k])` with the site's weight and costs; ties
/// go to the smaller `k`. NaN never wins; where all are NaN the largest choice is taken, which is
/// full compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choose {
    /// Index into [`crate::Program::sites`].
    pub site: usize,
    /// Applied to the gate's outputs.
    pub transform: GateTransform,
    /// The choice that the gate's first row stands for.
    pub first: usize,
}

/// An MLP of nested learners, of which each token uses the first `k`.
///
/// `x [T, K], choice [T] i32, w1 [H1, K], (b1 [H1])?, w2 [M, H], (out_bias [learners + 1, M])?,
/// (residual [T, M])? -> [T, M]`. `H` is `learners * B` hidden units; `H1 = H`, or `2 H` when
/// `gated`. With `k` a row's choice, `y = act(x w1[:k B]^T + b1[:k B]) w2[:, :k B]^T +
/// out_bias[k] + residual`; no learner at all gives `out_bias[0] + residual`. `B` is a multiple of
/// 32. An Adaptive Computation Module (arXiv 2312.10193), a nested width and, with the identity as
/// activation, a nested low-rank projection are this op.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveMlp {
    /// Learners, at least 1.
    pub learners: usize,
    /// Of the hidden units.
    pub activation: Activation,
    /// `w1` and `b1` are interleaved as [`Linear::gated`] has them: `act(gate) * up`.
    pub gated: bool,
    /// Whether `b1` follows `w1`.
    pub bias: bool,
    /// Whether a bias per choice follows `w2`.
    pub out_bias: bool,
    /// Whether a residual operand comes last.
    pub residual: bool,
}

/// What weighs the results of a token's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertWeights {
    /// Their probabilities divided by the sum of those that are kept: a softmax over the kept
    /// logits (Mixtral, DeepSpeed's top-2).
    Renormalised,
    /// Their probabilities among all experts (DeepSpeed's top-1).
    Probabilities,
}

/// DeepSpeed's limit on the tokens of an expert: `max(ceil(T / experts * factor * top_k), min)`
/// tokens of a call. First choices come first, in the order of the tokens, then second choices, and
/// so on; what finds no room is dropped before weights are renormalised (`sharded_moe.py`, without
/// its noise and random token selection).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Times an even share, > 0.
    pub factor: f64,
    /// Tokens that an expert takes at least.
    pub min: usize,
}

impl Capacity {
    /// Tokens that an expert takes of a call of so many, as DeepSpeed computes it: in f32.
    pub fn room(self, tokens: usize, experts: usize, top_k: usize) -> usize {
        let share = (tokens as f64 / experts as f64) as f32;
        let room = (share * (self.factor * top_k as f64) as f32).ceil();
        (room as usize).max(self.min)
    }
}

/// A mixture of experts, MLPs of which each token uses a few.
///
/// `x [T, K], logits [T, experts], w1 [experts H1, K], w2 [experts M, H], (residual [T, M])? ->
/// [T, M]`; `H1 = H`, or `2 H` when `gated`, with the rows of an expert interleaved as
/// [`Linear::gated`] has them. Experts are stacked by rows; `H1` and `M` are multiples of 16.
///
/// `p = softmax(logits)`; experts are ranked by `p`, the smaller index first among equals. The op
/// chooses at its own site how many a token keeps: the first always, rank `r` in `2..=top_k` while
/// `p[r] / p[1] >= price * weight / top_k`. Then `y = sum_r w[r] act(x w1_r^T) w2_r^T + residual`
/// over the kept ranks, in their order. A NaN logit ranks last; it makes all probabilities of the
/// token NaN, which keeps every rank and gives NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoeMlp {
    /// Index into [`crate::Program::sites`]; its choices are `1..=top_k`.
    pub site: usize,
    /// How many there are.
    pub experts: usize,
    /// How many a token uses at most.
    pub top_k: usize,
    /// Of the hidden units.
    pub activation: Activation,
    /// `act(gate) * up`.
    pub gated: bool,
    /// The weights of a token's experts.
    pub weights: ExpertWeights,
    /// With it a token depends on the others of its call: the results are not those of the token
    /// alone.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// Whether a residual operand comes last.
    pub residual: bool,
}

/// What [`Mix`] makes of its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixRule {
    /// `1 / (1 + exp(-x))` of each.
    Sigmoid,
    /// Softmax over the parts.
    Softmax,
}

/// A weighted sum of values: `logits [T, parts], part [T, H] (parts times), (residual [T, H])? ->
/// [T, H]`, `y = sum_i rule(logits)[i] part_i + residual`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// In 1..=16.
    pub parts: usize,
    /// Of the weights.
    pub rule: MixRule,
    /// Whether a residual operand comes last.
    pub residual: bool,
}

/// Images as rows of patches that do not overlap: `pixels [sequences, channels height width] -> [T,
/// channels patch patch]`.
///
/// Each image gives `lead` rows of zeros, in whose place a model puts tokens of its own, and then a
/// row for each patch, left to right and top to bottom, its values channel by channel. `T` is
/// `sequences` times those rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patches {
    /// Channels of an image.
    pub channels: usize,
    /// Height of an image, a multiple of `patch`.
    pub height: usize,
    /// Width of an image, a multiple of `patch`.
    pub width: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Rows of zeros before those of an image.
    pub lead: usize,
}

/// A site's choice by the price alone, the same for every token: `-> [T] i32`.
///
/// The choice is `argmax_k(gains[k] - price * weight * costs[k])` with the site's weight and costs;
/// ties go to the smaller `k`. The last gain is above all others, so that a price of 0 is full
/// compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Index into [`crate::Program::sites`]; its first choice is 0.
    pub site: usize,
    /// As many as the site has choices.
    pub gains: Vec<f64>,
}

impl Level {
    /// The choice at a price, for a site of these costs and this weight.
    pub fn choose(&self, costs: &[f64], weight: f64, price: f64) -> usize {
        let mut best: Option<(usize, f64)> = None;
        for (k, (gain, cost)) in self.gains.iter().zip(costs).enumerate() {
            // A price beyond all numbers still leaves what costs nothing free.
            let value = gain - (price * weight).min(f64::MAX) * cost;
            if !value.is_nan() && best.is_none_or(|(_, most)| value > most) {
                best = Some((k, value));
            }
        }
        best.map_or(self.gains.len().saturating_sub(1), |(k, _)| k)
    }

    /// The choices that some price leads to, for a site of these costs and this weight: from which price on, and what
    /// each costs. The first is full compute, at price 0.
    pub fn taken(&self, costs: &[f64], weight: f64) -> Vec<(f64, f64)> {
        let lines: Vec<(f64, f64)> =
            self.gains.iter().copied().zip(costs.iter().copied()).collect();
        let mut taken = Vec::new();
        let mut next = lines.last().map(|full| (0.0, *full));
        while let Some((from, (gain, cost))) = next {
            taken.push((from, cost));
            // Where a cheaper one becomes better; of those that do so at once, the cheapest.
            let cheaper = lines.iter().filter(|(_, other)| *other < cost);
            let meets = cheaper.map(|&(g, c)| ((gain - g) / (weight * (cost - c)), (g, c)));
            let meets = meets.filter(|(price, _)| price.is_finite() && *price >= from);
            next = meets.min_by(|(p, a), (q, b)| p.total_cmp(q).then(a.1.total_cmp(&b.1)));
        }
        taken
    }
}

/// A [`Linear`] that leaves out small input channels (TEAL, arXiv 2408.14690).
///
/// The linear's operands, then `choice [T] i32, channels [K] f32`, over the rows of the call. With
/// `k` a row's choice, channel `j` of its `x` counts as 0 where `|x[j]| channels[j] <
/// thresholds[k]`; NaN is kept. The multiply-adds of the others are what the step spends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SparseLinear {
    /// What it is without thresholds. Its weight may be by channel.
    #[serde(flatten)]
    pub linear: Linear,
    /// One for each of the site's choices, never rising; the last is 0.
    pub thresholds: Vec<f32>,
}

macro_rules! ops {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// One step's operation.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("`", $name, "`, see [`struct@", stringify!($variant), "`].")] $variant($variant),)*
        }

        impl Op {
            /// Every op name that this version reads.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name in the plan file.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => $name,)* }
            }

            /// Parses an op from its name and parameters.
            ///
            /// # Errors
            /// An unknown name or parameters of the wrong form, as a message.
            pub fn from_parts(name: &str, params: serde_json::Value) -> Result<Op, String> {
                match name {
                    $($name => serde_json::from_value::<$variant>(params)
                        .map(Op::$variant)
                        .map_err(|e| format!("parameters of {name}: {e}")),)*
                    _ => Err(format!("unknown op {name:?}")),
                }
            }

            /// The parameters as JSON.
            pub fn params(&self) -> serde_json::Value {
                match self {
                    $(Op::$variant(p) => serde_json::to_value(p).unwrap_or_default(),)*
                }
            }
        }
    };
}

ops! {
    Embedding = "limbeck:embedding@1",
    Linear = "limbeck:linear@1",
    Norm = "limbeck:norm@1",
    Add = "limbeck:add@1",
    Activate = "limbeck:activate@1",
    Gate = "limbeck:gate@1",
    Attention = "limbeck:attention@1",
    SelectRows = "limbeck:select_rows@1",
    Pool = "limbeck:pool@1",
    SoftCap = "limbeck:soft_cap@1",
    Choose = "limbeck:choose@1",
    AdaptiveMlp = "limbeck:adaptive_mlp@1",
    MoeMlp = "limbeck:moe_mlp@1",
    Mix = "limbeck:mix@1",
    Patches = "limbeck:patches@1",
    Level = "limbeck:level@1",
    SparseLinear = "limbeck:sparse_linear@1",
    Pixels = "limbeck:pixels@1",
    Conv2d = "limbeck:conv2d@1",
    DepthwiseConv2d = "limbeck:depthwise_conv2d@1",
    MaxPool2d = "limbeck:max_pool2d@1",
    Map = "limbeck:map@1",
    MatMul = "limbeck:mat_mul@1",
    Reduce = "limbeck:reduce@1",
    Reshape = "limbeck:reshape@1",
    Transpose = "limbeck:transpose@1",
    Expand = "limbeck:expand@1",
    Slice = "limbeck:slice@1",
    Concat = "limbeck:concat@1",
    Pad = "limbeck:pad@1",
    Gather = "limbeck:gather@1",
    GatherElements = "limbeck:gather_elements@1",
    Softmax = "limbeck:softmax@1",
    Attend = "limbeck:attend@1",
    GroupNorm = "limbeck:group_norm@1",
    AveragePool2d = "limbeck:average_pool2d@1",
    ConvTranspose2d = "limbeck:conv_transpose2d@1",
    Resize = "limbeck:resize@1",
    Sizes = "limbeck:sizes@1",
    Range = "limbeck:range@1",
    Lstm = "limbeck:lstm@1",
    Onnx = "limbeck:onnx@1",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_parameters_round_trip() {
        let op = Op::Linear(Linear {
            bias: true,
            activation: Activation::GeluTanh,
            gated: false,
            residual: true,
            factors: false,
            precise: false,
        });
        assert_eq!(Op::from_parts(op.name(), op.params()).unwrap(), op);
    }

    #[test]
    fn levels_that_prices_take_are_those_that_are_chosen() {
        // The second never pays.
        let level = Level { site: 0, gains: vec![-0.9, -0.8, -0.3, -0.1, -0.05, 0.0] };
        let (costs, weight) = ([0.2, 0.3, 0.5, 0.7, 0.8, 1.0], 1.5);
        let taken = level.taken(&costs, weight);
        assert_eq!(taken.iter().map(|t| t.1).collect::<Vec<_>>(), [1.0, 0.8, 0.7, 0.5, 0.2]);
        assert_eq!(taken[0].0, 0.0);
        for (at, (from, cost)) in taken.iter().enumerate() {
            let until = taken.get(at + 1).map_or(10.0 * from, |next| next.0);
            for part in [0.01, 0.5, 0.99] {
                let price = from + part * (until - from);
                assert_eq!(costs[level.choose(&costs, weight, price)], *cost, "price {price}");
            }
        }
        assert_eq!(Level { site: 0, gains: vec![0.0] }.taken(&[1.0], 1.0), [(0.0, 1.0)]);
    }

    #[test]
    fn unknown_ops_and_bad_parameters_are_named() {
        let unknown = Op::from_parts("limbeck:warp@9", serde_json::json!({})).unwrap_err();
        assert!(unknown.contains("limbeck:warp@9"));
        let bad = Op::from_parts("limbeck:norm@1", serde_json::json!({"kind": "rms"})).unwrap_err();
        assert!(bad.contains("eps"), "{bad}");
    }
}
