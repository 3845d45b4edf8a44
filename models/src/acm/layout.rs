//! Limbeck's own layout of adaptive checkpoints, `docs/adaptive-checkpoints.md`.
//!
//! The module that stands in the place of `P` (`model.layers.3.mlp`, `...self_attn.q_proj`) has
//!
//! - `P.acm.w1 [H, K]`, a row per hidden unit, and `P.acm.b1 [H]` where there are biases; a gated
//!   MLP has `P.acm.w1_gate [H, K]` and `P.acm.b1_gate [H]` too: `act(gate) * up`;
//! - `P.acm.w2 [H, M]`, a row per hidden unit;
//! - at most one of `P.acm.b2 [M]`, added whatever the choice, and `P.acm.bk [learners + 1, M]`,
//!   a row for each choice;
//! - `P.acm.gate.weight [C, K]` and `P.acm.gate.bias [C]`, or linears one behind the other as
//!   `P.acm.gate.0.weight`, `P.acm.gate.0.bias`, `P.acm.gate.1.weight`, ...
//!
//! What the shapes do not tell is in the configuration's object `acm`, by kind of module.

use std::cell::Cell;

use limbeck_graph::TensorExpr;
use limbeck_plan::{Activation, GateTransform};
use serde_json::{Value, json};

use super::{Module, check_learners, gate, interleave_cols, interleave_rows, rows};
use crate::config::Config;
use crate::decoder::activation_named;
use crate::{Error, ErrorKind, TensorIndex};

/// What a module stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Mlp,
    Query,
    Key,
    Value,
    Output,
}

impl Role {
    const ALL: [Role; 5] = [Role::Mlp, Role::Query, Role::Key, Role::Value, Role::Output];

    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Role::Mlp => "mlp",
            Role::Query => "q_proj",
            Role::Key => "k_proj",
            Role::Value => "v_proj",
            Role::Output => "o_proj",
        }
    }

    /// Refuses a smallest choice of 0 where nothing would be cached: every position that a later
    /// one attends to has a key and a value.
    pub fn check_first(self, name: &str, first: usize) -> Result<(), Error> {
        if first == 0 && matches!(self, Role::Key | Role::Value) {
            let message = format!(
                "module {name:?} may choose no learner, but keys and values need at least one: \
                 its min_choice must be 1"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(())
    }
}

/// What the configuration says of one kind of module.
struct RoleSettings {
    learners: Option<usize>,
    min_choice: usize,
    activation: Option<Activation>,
    transform: GateTransform,
    /// Whether the configuration speaks of it, and whether a layer has one.
    named: bool,
    used: Cell<bool>,
}

/// The configuration's object `acm`.
pub(crate) struct Settings([RoleSettings; Role::ALL.len()]);

impl Settings {
    /// Reads the object `acm`; where it is absent, everything has its default.
    pub fn read(config: &Config) -> Result<Settings, Error> {
        let value: Option<Value> = config.get("acm")?;
        let acm = Config::nested(&value.unwrap_or_else(|| json!({})), "acm")?;
        let mut roles = Vec::with_capacity(Role::ALL.len());
        for role in Role::ALL {
            roles.push(RoleSettings::read(&acm, role)?);
        }
        acm.finish(&Default::default())?;
        let roles = <[RoleSettings; Role::ALL.len()]>::try_from(roles);
        let wrong = |_| Error::new(ErrorKind::Mismatch, "config key \"acm\" is incomplete");
        roles.map(Settings).map_err(wrong)
    }

    fn of(&self, role: Role) -> &RoleSettings {
        let [mlp, query, key, value, output] = &self.0;
        match role {
            Role::Mlp => mlp,
            Role::Query => query,
            Role::Key => key,
            Role::Value => value,
            Role::Output => output,
        }
    }

    /// Refuses settings of modules that no layer has.
    pub fn finish(&self) -> Result<(), Error> {
        match Role::ALL.iter().find(|r| self.of(**r).named && !self.of(**r).used.get()) {
            None => Ok(()),
            Some(role) => {
                let key = role.key();
                let message = format!(
                    "config key \"acm.{key}\" is there, but no layer has such a module: \
                     a tensor like \"...{key}.acm.w1\" is missing"
                );
                Err(Error::new(ErrorKind::Missing, message))
            }
        }
    }

    /// The module in the place of `name`, `[T, K] -> [T, M]`, if the checkpoint has one. The
    /// linears `dense` that it replaces are of no use then. `activation` is the student's own.
    pub fn module(
        &self,
        tensors: &TensorIndex,
        role: Role,
        name: &str,
        [m, k]: [usize; 2],
        activation: Activation,
        dense: &[String],
    ) -> Result<Option<Module>, Error> {
        let at = |part: &str| format!("{name}.acm.{part}");
        if !["w1", "w2", "w1_gate"].iter().any(|part| tensors.has(&at(part))) {
            return Ok(None);
        }
        for part in dense {
            tensors.discard(&format!("{part}.weight"));
            tensors.discard(&format!("{part}.bias"));
        }
        let settings = self.of(role);
        settings.used.set(true);
        role.check_first(name, settings.min_choice)?;
        let hidden = rows(tensors, &at("w1"))?;
        let gate = gate(tensors, &at("gate"), k)?;
        let choices = gate.last().map_or(0, |(weight, _)| weight.rows());
        let learners = settings.learners(&at("gate"), choices)?;
        check_learners(&at("w1"), hidden, learners)?;
        let up = (tensors.matrix(&at("w1"), hidden, k)?, optional(tensors, &at("b1"), hidden)?);
        let gated = tensors.has(&at("w1_gate"));
        if gated && role != Role::Mlp {
            let message = format!("tensor {:?} is there, but only an MLP is gated", at("w1_gate"));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (w1, b1) = if gated {
            let rows = tensors.matrix(&at("w1_gate"), hidden, k)?;
            let bias = match up.1 {
                Some(up) => {
                    let bias = tensors.vector(&at("b1_gate"), hidden)?;
                    Some(interleave_cols(bias, up))
                }
                None => None,
            };
            (interleave_rows(rows, up.0), bias)
        } else {
            up
        };
        let w2 = tensors.matrix(&at("w2"), hidden, m)?;
        let own = if role == Role::Mlp { activation } else { Activation::Identity };
        Ok(Some(Module {
            name: name.into(),
            w1,
            b1,
            w2: TensorExpr::Transpose(Box::new(w2)),
            out_bias: out_bias(tensors, &at, learners, m)?,
            gated,
            activation: settings.activation.unwrap_or(own),
            gate,
            transform: settings.transform,
            learners,
            first: settings.min_choice,
        }))
    }
}

impl RoleSettings {
    fn read(acm: &Config, role: Role) -> Result<RoleSettings, Error> {
        let value: Option<Value> = acm.get(role.key())?;
        let named = value.is_some();
        let path = format!("acm.{}", role.key());
        let config = Config::nested(&value.unwrap_or_else(|| json!({})), &path)?;
        let activation: Option<String> = config.get("activation")?;
        let transform: Option<String> = config.get("gate_transform")?;
        let settings = RoleSettings {
            learners: config.get("learners")?,
            min_choice: config.get("min_choice")?.unwrap_or(usize::from(role != Role::Mlp)),
            activation: activation
                .map(|name| activation_named(&config, "activation", &name))
                .transpose()?,
            transform: match transform.as_deref() {
                None | Some("identity") => GateTransform::Identity,
                Some("neg_exp2") => GateTransform::NegExp2,
                Some(other) => return Err(config.unsupported("gate_transform", other)),
            },
            named,
            used: Cell::new(false),
        };
        config.finish(&Default::default())?;
        Ok(settings)
    }

    /// The learners that a gate with these choices counts.
    fn learners(&self, gate: &str, choices: usize) -> Result<usize, Error> {
        let found = choices.saturating_add(self.min_choice).saturating_sub(1);
        match self.learners {
            Some(stated) if stated != found => {
                let first = self.min_choice;
                let message = format!(
                    "gate {gate:?} has {choices} choices from {first} on, which are not those of \
                     {stated} learners"
                );
                Err(Error::new(ErrorKind::Mismatch, message))
            }
            _ => Ok(found),
        }
    }
}

fn optional(tensors: &TensorIndex, name: &str, len: usize) -> Result<Option<TensorExpr>, Error> {
    if tensors.has(name) { tensors.vector(name, len).map(Some) } else { Ok(None) }
}

/// `[learners + 1, m]`: the bias of each choice.
fn out_bias(
    tensors: &TensorIndex,
    at: &dyn Fn(&str) -> String,
    learners: usize,
    m: usize,
) -> Result<Option<TensorExpr>, Error> {
    if tensors.has(&at("bk")) {
        return tensors.matrix(&at("bk"), learners + 1, m).map(Some);
    }
    let same = optional(tensors, &at("b2"), m)?;
    Ok(same.map(|bias| TensorExpr::ConcatRows(vec![bias; learners + 1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(acm: Value) -> Result<Settings, Error> {
        Settings::read(&Config::new(&json!({ "acm": acm })).unwrap())
    }

    #[test]
    fn settings_have_defaults_and_refuse_what_they_do_not_know() {
        let settings = read(json!({"k_proj": {"learners": 4}})).unwrap();
        assert_eq!(settings.of(Role::Mlp).min_choice, 0);
        assert_eq!(settings.of(Role::Key).min_choice, 1);
        assert!(settings.of(Role::Key).learners("gate", 4).is_ok());
        let wrong = settings.of(Role::Key).learners("gate", 5).unwrap_err().to_string();
        assert!(wrong.contains("\"gate\"") && wrong.contains("4 learners"), "{wrong}");
        assert!(settings.finish().unwrap_err().to_string().contains("acm.k_proj"));
        for (acm, word) in [
            (json!({"mlp": {"wobble": 1}}), "acm.mlp.wobble"),
            (json!({"wobble": 1}), "acm.wobble"),
            (json!({"mlp": {"activation": "swoosh"}}), "acm.mlp.activation"),
            (json!({"mlp": {"gate_transform": "cube"}}), "acm.mlp.gate_transform"),
            (json!({"mlp": {"min_choice": -1}}), "acm.mlp.min_choice"),
            (json!({"mlp": 4}), "acm.mlp"),
            (json!([]), "acm"),
        ] {
            let error = read(acm).err().expect(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn keys_and_values_choose_at_least_one_learner() {
        for role in Role::ALL {
            let free = !matches!(role, Role::Key | Role::Value);
            assert_eq!(role.check_first("p", 0).is_ok(), free);
            assert!(role.check_first("p", 1).is_ok());
        }
    }
}
