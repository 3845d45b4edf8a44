//! `tokenizer.ggml.model = gpt2`: byte-level BPE with merges, behind one of several
//! pre-tokenizers.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::{MAX_MERGES, Parts, Vocab, strings};
use crate::error::{Error, Result};
use crate::import::gguf::reader::Gguf;

/// How text is cut into words before merging (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// llama.cpp's fallback: punctuation runs, GPT-2 words, digits by three.
    Default,
    /// GPT-2 words.
    Gpt2,
    /// Single digits, then GPT-2 words.
    SmolLm,
    /// Qwen 2 and 3: single digits within one expression.
    Qwen2,
    /// Llama 3: digits by three within one expression; whole words before merges.
    Llama3,
}

/// GPT-2's words. In llama.cpp's expression the last alternative is left out, but what no
/// alternative matches becomes a piece there as well.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's words, with `DIGITS` for its treatment of digits.
const LLAMA3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Unicode categories that the expressions use.
const CATEGORIES: [&str; 3] = [r"\p{L}", r"\p{N}", r"\p{P}"];

/// Characters of the Unicode version whose tables llama.cpp carries (`src/unicode-data.cpp`);
/// younger ones have no category there.
const UNICODE: &str = r"\p{Age=15.0}";

impl PreTokenizer {
    /// The file's pre-tokenizer; a missing key means the default, others are refused by name.
    pub(super) fn read(gguf: &Gguf<'_>) -> Result<PreTokenizer> {
        let key = "tokenizer.ggml.pre";
        match gguf.str(key)? {
            None | Some("" | "default") => Ok(PreTokenizer::Default),
            Some("gpt-2") => Ok(PreTokenizer::Gpt2),
            Some("smollm") => Ok(PreTokenizer::SmolLm),
            Some("qwen2" | "deepseek-r1-qwen") => Ok(PreTokenizer::Qwen2),
            Some("llama-bpe" | "llama3" | "llama-v3") => Ok(PreTokenizer::Llama3),
            Some(other) => {
                Err(Error::unsupported(format!("pre-tokenizer {other}"))
                    .at(format_args!("key {key}")))
            }
        }
    }

    /// Whether a sequence begins with BOS when the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        self == PreTokenizer::Llama3
    }

    /// Expressions applied one after the other, each cutting the pieces of the one before.
    fn expressions(self) -> Vec<String> {
        let expressions = match self {
            PreTokenizer::Default => {
                vec![r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]
            }
            PreTokenizer::Gpt2 => vec![GPT2],
            PreTokenizer::SmolLm => vec![r"\p{N}", GPT2],
            PreTokenizer::Qwen2 | PreTokenizer::Llama3 => vec![LLAMA3],
        };
        let digits = if self == PreTokenizer::Llama3 { r"\p{N}{1,3}" } else { r"\p{N}" };
        let with_categories = |expression: &str| {
            CATEGORIES.iter().fold(expression.replace("DIGITS", digits), |expression, category| {
                expression.replace(category, &format!("[{category}&&{UNICODE}]"))
            })
        };
        expressions.into_iter().map(with_categories).collect()
    }
}

pub(super) fn parts(gguf: &Gguf<'_>, vocab: &Vocab<'_>, pre: PreTokenizer) -> Result<Parts> {
    let split = |expression: &str, behavior: &str| {
        json!({
            "type": "Split",
            "pattern": { "Regex": expression },
            "behavior": behavior,
            "invert": false,
        })
    };
    let byte_level = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": false,
    });
    let mut steps: Vec<Json> =
        pre.expressions().iter().map(|expression| split(expression, "Isolated")).collect();
    steps.push(byte_level.clone());
    if let Some(missing) = missing_bytes(vocab) {
        steps.push(split(&missing, "Removed"));
    }
    Ok(Parts {
        normalizer: Json::Null,
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": steps }),
        decoder: byte_level,
        merges: merges(gguf, vocab)?,
        byte_fallback: false,
        ignore_merges: pre == PreTokenizer::Llama3,
    })
}

/// The characters that stand for bytes without a token, as an expression. llama.cpp drops such
/// bytes, and what surrounds them does not merge.
fn missing_bytes(vocab: &Vocab<'_>) -> Option<String> {
    let mut class = String::new();
    let mut utf8 = [0; 4];
    for byte in 0..=u8::MAX {
        let stand_in = stand_in(byte);
        if vocab.id(stand_in.encode_utf8(&mut utf8)).is_none() {
            // Writing to a string cannot fail.
            let _ = write!(class, r"\x{{{:x}}}", u32::from(stand_in));
        }
    }
    (!class.is_empty()).then(|| format!("[{class}]"))
}

/// The printable character that stands for a byte in byte-level BPE (GPT-2's
/// `bytes_to_unicode`): itself when printable in Latin-1, else the next free one from U+0100.
fn stand_in(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The file's merges, best first. A repeated pair counts where it comes first.
fn merges(gguf: &Gguf<'_>, vocab: &Vocab<'_>) -> Result<Vec<(u32, u32)>> {
    let key = "tokenizer.ggml.merges";
    let lines = strings(gguf, key)?
        .ok_or_else(|| Error::missing(format!("no key {key}")).at("metadata"))?;
    let mut merges = Vec::new();
    let mut seen = HashSet::new();
    let mut joined = String::new();
    for (index, line) in lines.enumerate() {
        let refuse = |message: String| Err(Error::format(message).at(format_args!("key {key}")));
        if index >= MAX_MERGES {
            return refuse(format!("more than {MAX_MERGES} merges"));
        }
        // The first character may itself be a space.
        let space = line.bytes().skip(1).position(|byte| byte == b' ');
        let Some((left, right)) = space
            .and_then(|at| line.split_at_checked(at + 1))
            .and_then(|(left, right)| Some((left, right.strip_prefix(' ')?)))
        else {
            return refuse(format!("merge {index}, {line:?}, is not a pair"));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let (Some(left), Some(right), Some(_)) =
            (vocab.id(left), vocab.id(right), vocab.id(&joined))
        else {
            return refuse(format!("merge {index}, {line:?}, names a token that does not exist"));
        };
        if seen.insert((left, right)) {
            merges.push((left, right));
        }
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_those_of_gpt2() {
        assert_eq!(stand_in(b' '), 'Ġ');
        assert_eq!(stand_in(b'\n'), 'Ċ');
        assert_eq!(stand_in(b'a'), 'a');
        assert_eq!(stand_in(0x7F), 'ġ');
        assert_eq!(stand_in(0xAD), 'Ń');
        let all: HashSet<char> = (0..=u8::MAX).map(stand_in).collect();
        assert_eq!(all.len(), 256);
    }
}
