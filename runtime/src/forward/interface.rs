//! The names and shapes of what [`super::Forward`] takes and gives.

use limbeck_plan::{Manifest, OperandKind, Plan, Task};

use crate::classify::{self, PIXELS};

/// The tensor of choices.
pub(super) const CHOICES: &str = "choices";

/// A tensor: its name and its shape in words.
type Tensor<'a> = (&'static str, &'a str);

/// The named tensors of a plan's task: but for tensors, not the raw operands of its entry, which the
/// runtime fills with positions, and with tokens of all sequences in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The entry that runs.
    pub entry: &'static str,
    /// What is given: names and shapes in words.
    pub inputs: Vec<(String, String)>,
    /// What comes of it.
    pub outputs: Vec<(String, String)>,
}

impl Interface {
    /// The inputs as a sentence lists them.
    pub fn listed_inputs(&self) -> String {
        list(&self.inputs)
    }

    /// The outputs as a sentence lists them.
    pub fn listed_outputs(&self) -> String {
        list(&self.outputs)
    }

    /// That of a plan.
    pub fn of(plan: &Plan) -> Interface {
        let images = images(plan);
        let (entry, inputs, outputs, choices): (_, &[Tensor<'_>], &[Tensor<'_>], _) =
            match plan.manifest().task {
                Task::Text => (
                    Manifest::TEXT_ENTRY,
                    &[("input_ids", "[tokens]")],
                    &[("logits", "[tokens, vocab]")],
                    "[sites, tokens]",
                ),
                Task::Embed => (
                    Manifest::EMBED_ENTRY,
                    &[("input_ids", "[batch, tokens]"), ("attention_mask", "[batch, tokens]")],
                    &[
                        ("last_hidden_state", "[batch, tokens, hidden]"),
                        ("embedding", "[batch, embedding]"),
                    ],
                    "[sites, batch * tokens]",
                ),
                Task::Classify => (
                    Manifest::CLASSIFY_ENTRY,
                    &[(PIXELS, &images)],
                    &[("logits", "[batch, classes]")],
                    "[sites, batch * tokens]",
                ),
                Task::Tensors => return Interface::of_tensors(plan, Manifest::TENSORS_ENTRY),
                Task::Diffuse => return Interface::of_tensors(plan, Manifest::DENOISE_ENTRY),
            };
        let choices = (!plan.program().sites.is_empty()).then_some((CHOICES, choices));
        let with_choices = |tensors: &[Tensor<'_>]| {
            let all = tensors.iter().copied().chain(choices);
            all.map(|(name, shape)| (name.to_owned(), shape.to_owned())).collect()
        };
        Interface { entry, inputs: with_choices(inputs), outputs: with_choices(outputs) }
    }

    fn of_tensors(plan: &Plan, entry: &'static str) -> Interface {
        let found = plan.program().entry(entry);
        let named = |kind| {
            let operands = found.into_iter().flat_map(|entry| entry.operands_of(kind));
            operands.map(|(_, o)| (o.name.clone(), o.fact.to_string())).collect()
        };
        let (inputs, outputs) = (named(OperandKind::Input), named(OperandKind::Output));
        Interface { entry, inputs, outputs }
    }
}

/// The shape of images, where the plan takes such.
fn images(plan: &Plan) -> String {
    let entry = plan.program().entry(Manifest::CLASSIFY_ENTRY);
    match entry.and_then(classify::interface) {
        Some(classify::Interface { image: [c, h, w], .. }) => format!("[batch, {c}, {h}, {w}]"),
        None => "[batch, channels, height, width]".into(),
    }
}

/// Tensors as a sentence lists them.
fn list(tensors: &[(String, String)]) -> String {
    let listed: Vec<String> =
        tensors.iter().map(|(name, shape)| format!("{name} {shape}")).collect();
    listed.join(", ")
}
