//! `tokenizer.ggml.model = llama`: SentencePiece by scores, with byte fallback.
//!
//! llama.cpp repeatedly joins the two neighbours whose union is the token of the best score, the
//! leftmost on a tie. That is BPE with one merge for every way to split a token in two, ranked by
//! the token's score.

use serde_json::{Value as Json, json};

use super::{Kind, MAX_MERGES, Parts, Vocab, numbers};
use crate::error::{Error, Result};
use crate::import::gguf::reader::Gguf;

/// Longer tokens, in bytes, are refused: finding merges takes quadratic time in the length.
const MAX_TOKEN: usize = 256;

pub(super) fn parts(gguf: &Gguf<'_>, vocab: &Vocab<'_>) -> Result<Parts> {
    let key = "tokenizer.ggml.scores";
    let scores = numbers(gguf, key, vocab.tokens.len())?
        .ok_or_else(|| Error::missing(format!("no key {key}")).at("metadata"))?;
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::format(format!("the score of token {id} is not a number"))
            .at(format_args!("key {key}")));
    }
    for byte in 0..=u8::MAX {
        let text = format!("<0x{byte:02X}>");
        if vocab.id(&text).is_none() {
            return Err(Error::unsupported(format!("no token {text} for a single byte"))
                .at("key tokenizer.ggml.tokens"));
        }
    }
    let prefix = gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Json::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        merges: merges(vocab, &scores)?,
        byte_fallback: true,
        ignore_merges: false,
    })
}

/// All merges that can make a token, best score first; equal scores by id, which differs from
/// llama.cpp only where two tokens of the same score compete for the same characters.
fn merges(vocab: &Vocab<'_>, scores: &[f32]) -> Result<Vec<(u32, u32)>> {
    let mut order: Vec<(f32, u32)> = scores.iter().copied().zip(0..).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut merges = Vec::new();
    for (_, id) in order {
        let text = vocab.text(id);
        let kind = vocab.tokens.get(id as usize).map(|token| token.kind);
        if kind == Some(Kind::Normal) {
            check_token(vocab, id, text)?;
        }
        if text.len() <= MAX_TOKEN {
            push_splits(vocab, text, &mut merges);
        }
        if merges.len() > MAX_MERGES {
            return Err(Error::unsupported(format!(
                "the tokens split in more than {MAX_MERGES} ways"
            ))
            .at("key tokenizer.ggml.tokens"));
        }
    }
    Ok(merges)
}

/// The two tokens that make up `text` when it is cut at byte `at`.
fn split(vocab: &Vocab<'_>, text: &str, at: usize) -> Option<(u32, u32)> {
    let (left, right) = text.split_at_checked(at)?;
    Some((vocab.id(left)?, vocab.id(right)?))
}

/// Appends every split of a token, so that overlapping candidates for the same token are tried
/// from the left, as llama.cpp does. Only splits at `at` and at `len - at` can overlap (the right
/// part of the one being the left part of the other).
fn push_splits(vocab: &Vocab<'_>, text: &str, merges: &mut Vec<(u32, u32)>) {
    for at in text.len().div_ceil(2)..text.len() {
        let long = split(vocab, text, at);
        let short = split(vocab, text, text.len() - at).filter(|_| 2 * at != text.len());
        match (long, short) {
            (Some(long), Some(short)) if short.1 == long.0 && long.1 != short.0 => {
                merges.extend([short, long]);
            }
            (long, short) => merges.extend(long.into_iter().chain(short)),
        }
    }
}

/// Refuses a token that llama.cpp could reach and these merges could not: llama.cpp joins
/// characters that are no tokens themselves.
fn check_token(vocab: &Vocab<'_>, id: u32, text: &str) -> Result<()> {
    let refuse = |message: String| Err(Error::unsupported(message).at("key tokenizer.ggml.tokens"));
    if text.len() > MAX_TOKEN {
        return refuse(format!(
            "token {id} has {} bytes; at most {MAX_TOKEN} are supported",
            text.len()
        ));
    }
    let single = |part: &str| part.chars().nth(1).is_none();
    let symbol = |part: &str| single(part) || vocab.id(part).is_some();
    for (at, _) in text.char_indices().skip(1) {
        let (left, right) = text.split_at(at);
        if symbol(left) && symbol(right) && (vocab.id(left).is_none() || vocab.id(right).is_none())
        {
            return refuse(format!("token {id}, {text:?}, holds a character that is not a token"));
        }
    }
    Ok(())
}
