//! Tokens that llama.cpp recognises by their text, whatever their declared type.

use super::{Kind, Vocab};

/// Tokens that end a generation wherever they occur (`special_eog_ids` in llama.cpp).
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle tokens, which are never text.
const FILL_IN_THE_MIDDLE: [&str; 35] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Tokens that are always shown as text.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The kind of a token, given its declared kind.
pub(super) fn kind_by_text(text: &str, declared: Kind) -> Kind {
    if SHOWN.contains(&text) {
        return Kind::UserDefined;
    }
    if ENDS.contains(&text) || FILL_IN_THE_MIDDLE.contains(&text) {
        return Kind::Control;
    }
    declared
}

/// All tokens that end a generation, ascending.
pub(super) fn end_of_generation(vocab: &Vocab<'_>, declared: &[Option<u32>]) -> Vec<u32> {
    let known = ENDS.iter().filter_map(|text| vocab.id(text));
    let mut ids: Vec<u32> = declared.iter().flatten().copied().chain(known).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
