//! Mixtures of experts in the place of a layer's MLP: a router over gated MLPs of one size, with a
//! shared expert or a residual MLP beside them.
//!
//! A checkpoint holds each expert's projections, or all of them stacked as `[experts, rows, cols]`:
//! `experts.gate_up_proj` (gate rows, then up rows, of each expert), or `experts.gate_proj` and
//! `experts.up_proj`; and `experts.down_proj`.

use limbeck_graph::{Graph, TensorExpr, ValueId};
use limbeck_plan::{
    Activation, Add, Capacity, ExpertWeights, GATE_GROUP, Gate, Mix, MixRule, MoeMlp, Op, Site,
    SiteKind,
};

use crate::config::Config;
use crate::decoder::linear;
use crate::{Error, TensorIndex};

/// One layer's mixture.
#[derive(Clone, Debug)]
pub(crate) struct Moe {
    pub naming: &'static Naming,
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Hidden units of an expert.
    pub intermediate: usize,
    pub weights: ExpertWeights,
    pub capacity: Option<Capacity>,
    pub beside: Beside,
}

/// What every token goes through besides its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// An MLP of so many hidden units, times the sigmoid of a gate.
    Shared(usize),
    /// An MLP of an expert's size; it and the experts are weighed by a softmax (DeepSpeed's
    /// `use_residual`).
    Residual,
}

/// What a family calls the parts of a layer.
#[derive(Debug)]
pub(crate) struct Naming {
    /// The block; the first that has a router is taken.
    blocks: &'static [&'static str],
    router: &'static str,
    experts: &'static str,
    /// Gate, up and down projection of an expert.
    parts: [&'static str; 3],
}

const PROJECTIONS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
/// `modeling_mixtral.py` of transformers: its modules are called `mlp`, its files `block_sparse_moe`.
pub(crate) const MIXTRAL: Naming = Naming {
    blocks: &["block_sparse_moe", "mlp"],
    router: "gate",
    experts: "experts",
    parts: ["w1", "w3", "w2"],
};
/// `modeling_qwen2_moe.py` and `modeling_qwen3_moe.py` of transformers.
pub(crate) const QWEN: Naming =
    Naming { blocks: &["mlp"], router: "gate", experts: "experts", parts: PROJECTIONS };
/// DeepSpeed's `moe/layer.py`, as MoE-LLaVA uses it.
pub(crate) const DEEPSPEED: Naming = Naming {
    blocks: &["mlp"],
    router: "deepspeed_moe.gate.wg",
    experts: "deepspeed_moe.experts.deepspeed_experts",
    parts: PROJECTIONS,
};

/// Where a mixture is built.
pub(crate) struct Place<'a> {
    pub graph: &'a mut Graph,
    pub tensors: &'a TensorIndex,
    pub layer: usize,
    /// Columns of the stream.
    pub hidden: usize,
    pub activation: Activation,
}

impl Moe {
    /// Refuses a number of experts per token that there are not.
    pub fn check_top_k(config: &Config, key: &str, top_k: usize, of: usize) -> Result<(), Error> {
        if top_k <= of {
            return Ok(());
        }
        Err(config.unsupported(key, &format!("{top_k} (of {of} experts)")))
    }

    /// The mixture on the normalised stream `x [T, hidden]`: `[T, hidden]`.
    pub fn build(&self, place: &mut Place<'_>, x: ValueId) -> Result<ValueId, Error> {
        let (layer, hidden) = (place.layer, place.hidden);
        let blocks = self.naming.blocks.iter();
        let block = |block: &&str| format!("model.layers.{layer}.{block}");
        let router = |block: &str| format!("{block}.{}", self.naming.router);
        let mut found =
            blocks.map(block).filter(|b| place.tensors.has(&format!("{}.weight", router(b))));
        let block = found.next().unwrap_or_else(|| block(&self.naming.blocks[0]));
        let logits = place.linear(&router(&block), x, [self.experts, hidden], false)?;
        let weights = self.weights(place, &block)?.map(|expr| place.graph.weight(expr));
        let costs = (1..=self.top_k).map(|k| k as f64 / self.top_k as f64);
        let site = place.graph.site(Site {
            name: format!("layers.{layer}.experts"),
            kind: SiteKind::Experts,
            first: 1,
            costs: costs.collect(),
            weight: 1.0,
        });
        let op = Op::MoeMlp(MoeMlp {
            site,
            experts: self.experts,
            top_k: self.top_k,
            activation: place.activation,
            gated: true,
            weights: self.weights,
            capacity: self.capacity,
            residual: false,
        });
        let name = format!("{block}.experts");
        let moe = place.graph.node(&name, op, &[x, logits, weights[0], weights[1]])?;
        self.beside(place, &block, x, moe)
    }

    /// Adds what is beside the experts to their result.
    fn beside(
        &self,
        place: &mut Place<'_>,
        block: &str,
        x: ValueId,
        moe: ValueId,
    ) -> Result<ValueId, Error> {
        let hidden = place.hidden;
        let at = |part: &str| format!("{block}.{part}");
        match self.beside {
            Beside::Nothing => Ok(moe),
            Beside::Shared(inner) => {
                let gate = place.linear(&at("shared_expert_gate"), x, [1, hidden], false)?;
                let shared = place.mlp(&at("shared_expert"), x, inner)?;
                let mix = Op::Mix(Mix { parts: 1, rule: MixRule::Sigmoid, residual: false });
                let shared = place.graph.node(&at("shared"), mix, &[gate, shared])?;
                Ok(place.graph.node(&at("sum"), Op::Add(Add {}), &[shared, moe])?)
            }
            Beside::Residual => {
                let logits = place.linear(&at("coefficient"), x, [2, hidden], true)?;
                let mlp = place.mlp(&at("mlp"), x, self.intermediate)?;
                let mix = Op::Mix(Mix { parts: 2, rule: MixRule::Softmax, residual: false });
                Ok(place.graph.node(&at("mix"), mix, &[logits, moe, mlp])?)
            }
        }
    }

    /// Gate and up rows of all experts, 8 by 8, and their down rows.
    fn weights(&self, place: &Place<'_>, block: &str) -> Result<[TensorExpr; 2], Error> {
        let (tensors, hidden, inner) = (place.tensors, place.hidden, self.intermediate);
        let experts = self.experts;
        // GGUF's tensors end in `.weight`, transformers' do not.
        let stacked = |part: &str| {
            let name = format!("{block}.experts.{part}");
            let weight = format!("{name}.weight");
            if tensors.has(&weight) { weight } else { name }
        };
        let stack = |part: &str, rows, cols| tensors.stack(&stacked(part), [experts, rows, cols]);
        if tensors.has(&stacked("gate_up_proj")) {
            let both = stack("gate_up_proj", 2 * inner, hidden)?;
            let rows =
                |first| TensorExpr::Rows { base: Box::new(both.clone()), first, count: inner };
            let each =
                (0..experts).map(|e| interleave(rows(2 * e * inner), rows((2 * e + 1) * inner)));
            let w1 = TensorExpr::ConcatRows(each.collect());
            return Ok([w1, stack("down_proj", hidden, inner)?]);
        }
        if tensors.has(&stacked("gate_proj")) {
            // An expert's rows are whole groups, so that all of them interleave as each does.
            let w1 =
                interleave(stack("gate_proj", inner, hidden)?, stack("up_proj", inner, hidden)?);
            return Ok([w1, stack("down_proj", hidden, inner)?]);
        }
        let matrix = |expert: usize, part: usize, rows, cols| {
            let Naming { experts, parts, .. } = self.naming;
            let name = format!("{block}.{experts}.{expert}.{}.weight", parts[part]);
            tensors.matrix(&name, rows, cols)
        };
        let (mut w1, mut w2) = (Vec::new(), Vec::new());
        for e in 0..experts {
            w1.push(interleave(matrix(e, 0, inner, hidden)?, matrix(e, 1, inner, hidden)?));
            w2.push(matrix(e, 2, hidden, inner)?);
        }
        Ok([TensorExpr::ConcatRows(w1), TensorExpr::ConcatRows(w2)])
    }
}

fn interleave(first: TensorExpr, second: TensorExpr) -> TensorExpr {
    let (first, second) = (Box::new(first), Box::new(second));
    TensorExpr::InterleaveRows { first, second, group: GATE_GROUP }
}

impl Place<'_> {
    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<ValueId, Error> {
        linear(self.graph, self.tensors, name, x, shape, bias)
    }

    /// A gated MLP without biases.
    fn mlp(&mut self, name: &str, x: ValueId, inner: usize) -> Result<ValueId, Error> {
        let at = |part: &str| format!("{name}.{part}");
        let (hidden, activation) = (self.hidden, self.activation);
        let gate = self.linear(&at("gate_proj"), x, [inner, hidden], false)?;
        let up = self.linear(&at("up_proj"), x, [inner, hidden], false)?;
        let op = Op::Gate(Gate { activation });
        let gated = self.graph.node(&at("gate"), op, &[gate, up])?;
        self.linear(&at("down_proj"), gated, [hidden, inner], false)
    }
}
