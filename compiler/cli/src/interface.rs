//! What `limbeck forward` takes and gives for a plan: not the raw operands of its entry, which the
//! runtime fills with positions, and with tokens of all sequences in turn.

use limbeck::plan::{Manifest, Plan, Task};

/// The tensor of choices.
pub const CHOICES: &str = "choices";

/// A tensor: its name and its shape in words.
type Tensor = (&'static str, &'static str);

/// The tensors of a plan's task.
pub struct Interface {
    pub entry: &'static str,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

impl Interface {
    pub fn of(plan: &Plan) -> Interface {
        let (entry, inputs, outputs, choices): (_, &[Tensor], &[Tensor], _) =
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
                    &[("pixel_values", "[batch, channels, height, width]")],
                    &[("logits", "[batch, classes]")],
                    "[sites, batch * tokens]",
                ),
            };
        let choices = (!plan.program().sites.is_empty()).then_some((CHOICES, choices));
        let with_choices = |tensors: &[Tensor]| tensors.iter().copied().chain(choices).collect();
        Interface { entry, inputs: with_choices(inputs), outputs: with_choices(outputs) }
    }
}

/// Tensors as a sentence lists them.
pub fn listed(tensors: &[Tensor]) -> String {
    let listed: Vec<String> =
        tensors.iter().map(|(name, shape)| format!("{name} {shape}")).collect();
    listed.join(", ")
}
