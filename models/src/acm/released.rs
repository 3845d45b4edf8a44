//! The layout of the released code, vision transformers only. A module in the place of `P` has
//! `P.w1 [K, H]` and `P.w2 [H, M]` (input by output, transposed against a linear's), `P.b1 [H]`,
//! `P.b2 [(learners + 1) M]`, whose parts add up as learners do, and its gate in
//! `P.gating_network.net.{i}` or, of a single layer, `P.gating_network.fc`.

use limbeck_graph::TensorExpr;
use limbeck_plan::{Activation, GateTransform};
use serde_json::Value;

use super::{Module, Role, check_learners, gate};
use crate::config::Config;
use crate::decoder::activation_named;
use crate::{Error, ErrorKind, TensorIndex};

/// The arguments that made the modules: the configuration's object `acm`.
pub(crate) struct Released {
    replaced: Vec<Role>,
    learners: usize,
    bias: Bias,
    attention_bias: Bias,
    activation: Activation,
    attention_activation: Activation,
    min_choice: Option<Value>,
    depth: Option<usize>,
    gating_hidden: Option<usize>,
}

/// Which biases a module has; `None` where the arguments leave it to the replaced linear.
#[derive(Clone, Copy)]
struct Bias {
    hidden: Option<bool>,
    out: Option<bool>,
}

impl Released {
    /// Reads the object `acm`; `None` for a transformer without modules.
    pub fn read(config: &Config) -> Result<Option<Released>, Error> {
        let Some(value) = config.get::<Value>("acm")? else { return Ok(None) };
        let acm = Config::nested(&value, "acm")?;
        let mut replaced = Vec::new();
        for (role, key) in [
            (Role::Mlp, "ffn"),
            (Role::Query, "q_proj"),
            (Role::Key, "k_proj"),
            (Role::Value, "v_proj"),
            (Role::Output, "o_proj"),
        ] {
            replaced.extend(acm.get(key)?.unwrap_or(false).then_some(role));
        }
        // The gate's arguments stand beside the others or in an object of their own.
        let nested: Option<Value> = acm.get("gate")?;
        let nested = nested.map(|gate| Config::nested(&gate, "acm.gate")).transpose()?;
        let gate = nested.as_ref().unwrap_or(&acm);
        // It only gives the sizes that the tensors have.
        acm.get::<f64>("block_flops_factor")?;
        // Those of training.
        acm.get::<Value>("dropout")?;
        gate.get::<Value>("gs_tau")?;
        gate.get::<Value>("gs_hard")?;
        let activation = |key: &str, default: Activation| match acm.get::<String>(key)? {
            Some(name) => activation_named(&acm, key, &name),
            None => Ok(default),
        };
        let released = Released {
            replaced,
            learners: acm.size("num_blocks")?,
            bias: Bias::read(&acm, "bias")?,
            attention_bias: Bias::read(&acm, "attention_bias")?,
            activation: activation("activation", Activation::Gelu)?,
            attention_activation: activation("attention_activation", Activation::Identity)?,
            min_choice: gate.get("min_choice")?,
            depth: gate.get("depth")?,
            gating_hidden: gate.get("gating_hidden_dim")?,
        };
        if let Some(nested) = &nested {
            nested.finish(&Default::default())?;
        }
        acm.finish(&Default::default())?;
        Ok(Some(released))
    }

    /// The module in the place of `name`, `[T, width] -> [T, width]`, if the arguments say that
    /// there is one.
    pub fn module(
        &self,
        tensors: &TensorIndex,
        role: Role,
        name: &str,
        width: usize,
    ) -> Result<Option<Module>, Error> {
        if !self.replaced.contains(&role) {
            return Ok(None);
        }
        let at = |part: &str| format!("{name}.{part}");
        let learners = self.learners;
        let hidden = match tensors.shape(&at("w1")) {
            Some(&[_, hidden]) => hidden,
            _ => return Err(self.no_matrix(tensors, &at("w1"))),
        };
        check_learners(&at("w1"), hidden, learners)?;
        let gate = self.gate(tensors, name, width)?;
        let choices = gate.last().map_or(0, |(weight, _)| weight.rows());
        let first = self.first(role, name, choices)?;
        let mlp = role == Role::Mlp;
        let bias = if mlp { self.bias } else { self.attention_bias };
        let w1 = tensors.matrix(&at("w1"), width, hidden)?;
        let w2 = tensors.matrix(&at("w2"), hidden, width)?;
        let b1 = match bias.hidden.unwrap_or_else(|| tensors.has(&at("b1"))) {
            true => Some(tensors.vector(&at("b1"), hidden)?),
            false => None,
        };
        let out_bias = match bias.out.unwrap_or_else(|| tensors.has(&at("b2"))) {
            true => {
                let rows = learners + 1;
                let shape = [rows.saturating_mul(width)];
                let parts = tensors.take(&at("b2"), &shape, rows, width)?;
                Some(TensorExpr::SumRows(Box::new(parts)))
            }
            false => None,
        };
        let activation = if mlp { self.activation } else { self.attention_activation };
        Ok(Some(Module {
            name: name.into(),
            w1: TensorExpr::Transpose(Box::new(w1)),
            b1,
            w2: TensorExpr::Transpose(Box::new(w2)),
            out_bias,
            gated: false,
            activation,
            gate,
            transform: GateTransform::Identity,
            learners,
            first,
        }))
    }

    fn no_matrix(&self, tensors: &TensorIndex, name: &str) -> Error {
        match tensors.shape(name) {
            Some(shape) => {
                let message = format!("tensor {name:?} has shape {shape:?}, which is no matrix");
                Error::new(ErrorKind::Mismatch, message)
            }
            None => Error::new(ErrorKind::Missing, format!("tensor {name:?} is missing")),
        }
    }

    fn gate(
        &self,
        tensors: &TensorIndex,
        name: &str,
        width: usize,
    ) -> Result<Vec<super::Affine>, Error> {
        let single = format!("{name}.gating_network.fc");
        let deep = format!("{name}.gating_network.net");
        tensors.discard(&format!("{name}.gating_network.gs_tau"));
        let found = match tensors.has(&format!("{single}.weight")) {
            true => gate(tensors, &single, width)?,
            false => gate(tensors, &deep, width)?,
        };
        let inner = found.iter().rev().skip(1).find_map(|(weight, _)| {
            self.gating_hidden.filter(|wanted| *wanted != weight.rows()).map(|_| weight.rows())
        });
        if self.depth.is_some_and(|depth| depth != found.len()) || inner.is_some() {
            let (depth, hidden) = (self.depth, self.gating_hidden);
            let message = format!(
                "gate {deep:?} has {} layers{}, the configuration says depth {depth:?}, \
                 gating_hidden_dim {hidden:?}",
                found.len(),
                inner.map_or(String::new(), |rows| format!(" of width {rows}")),
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(found)
    }

    /// The smallest choice, as the gate's outputs count it, in accord with `min_choice`: a number
    /// for the projections, or numbers by parts of modules' names.
    fn first(&self, role: Role, name: &str, choices: usize) -> Result<usize, Error> {
        let fail = |message: String| Err(Error::new(ErrorKind::Mismatch, message));
        let most = self.learners + 1;
        let Some(first) = most.checked_sub(choices) else {
            return fail(format!(
                "the gate of {name:?} has {choices} choices for {} learners",
                self.learners
            ));
        };
        let number = |v: &Value| v.as_u64().map(|n| n as usize);
        let stated = match &self.min_choice {
            None => Some(first),
            Some(Value::Object(parts)) => {
                let part = parts.iter().find(|(part, _)| name.contains(part.as_str()));
                part.map_or(Some(0), |(_, v)| number(v))
            }
            Some(_) if role == Role::Mlp => Some(first),
            Some(v) => number(v),
        };
        if stated != Some(first) {
            return fail(format!(
                "the gate of {name:?} has {choices} choices, from {first} on, which min_choice \
                 contradicts"
            ));
        }
        role.check_first(name, first)?;
        Ok(first)
    }
}

impl Bias {
    fn read(acm: &Config, key: &str) -> Result<Bias, Error> {
        let (hidden, out) = match acm.get::<Value>(key)? {
            None => (None, None),
            Some(Value::Bool(all)) => (Some(all), Some(all)),
            Some(Value::String(s)) if s == "hidden_only" => (Some(true), Some(false)),
            Some(Value::String(s)) if s == "out_only" => (Some(false), Some(true)),
            Some(other) => return Err(acm.unsupported(key, &other.to_string())),
        };
        Ok(Bias { hidden, out })
    }
}
