//! `tokenizer.ggml.*` metadata as a Hugging Face `tokenizer.json` that gives llama.cpp's ids.
//!
//! What llama.cpp does is defined by its `src/llama-vocab.cpp` and `src/unicode.cpp`; where
//! Hugging Face's own tokenizer of a student differs (Unicode normalisation, say), llama.cpp wins.

mod bpe;
mod special;
mod spm;

use std::collections::HashMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::reader::Gguf;
use super::value::Value;
use crate::error::{At, Error, Result};

/// More tokens than this are refused.
const MAX_TOKENS: usize = 1 << 20;
/// More merges than this are refused.
const MAX_MERGES: usize = 1 << 22;

/// The tokenizer of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// A `tokenizer.json`, as `tokenizers::Tokenizer::from_str` reads it. Encoding with special
    /// tokens adds BOS and EOS as [`GgufTokenizer::add_bos`] and [`GgufTokenizer::add_eos`] say.
    pub json: String,
    /// Number of tokens; ids are below it.
    pub vocab_size: usize,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence.
    pub eos: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Every token that ends a generation, ascending: EOS, end of turn, end of message, and the
    /// tokens that llama.cpp knows by text to mean so.
    pub end_of_generation: Vec<u32>,
    /// A sequence begins with BOS.
    pub add_bos: bool,
    /// A sequence ends with EOS.
    pub add_eos: bool,
    /// The chat template (Jinja), verbatim.
    pub chat_template: Option<String>,
}

/// What a token is (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

/// The vocabulary of a file.
struct Vocab<'a> {
    tokens: Vec<Token<'a>>,
    ids: HashMap<&'a str, u32>,
}

struct Token<'a> {
    text: &'a str,
    kind: Kind,
}

/// What a kind of tokenizer adds to the common parts of `tokenizer.json`.
struct Parts {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    /// Pairs of token ids, best first.
    merges: Vec<(u32, u32)>,
    byte_fallback: bool,
    ignore_merges: bool,
}

impl<'a> Vocab<'a> {
    fn read(gguf: &Gguf<'a>) -> Result<Vocab<'a>> {
        let key = "tokenizer.ggml.tokens";
        let place = format_args!("key {key}");
        let texts = strings(gguf, key)?
            .ok_or_else(|| Error::missing(format!("no key {key}")).at("metadata"))?;
        let count = gguf.get(key).and_then(Value::as_array).map_or(0, |array| array.len());
        if count > MAX_TOKENS {
            return Err(Error::unsupported(format!(
                "{count} tokens; at most {MAX_TOKENS} are supported"
            ))
            .at(place));
        }
        let kinds = kinds(gguf, count)?;
        let mut vocab =
            Vocab { tokens: Vec::with_capacity(count), ids: HashMap::with_capacity(count) };
        for ((id, text), kind) in (0u32..).zip(texts).zip(kinds) {
            if text.is_empty() || text.contains('\0') {
                // llama.cpp gives such tokens another text.
                return Err(
                    Error::unsupported(format!("token {id} is empty or holds a NUL")).at(place)
                );
            }
            if let Some(first) = vocab.ids.insert(text, id) {
                return Err(
                    Error::format(format!("tokens {first} and {id} are both {text:?}")).at(place)
                );
            }
            vocab.tokens.push(Token { text, kind: special::kind_by_text(text, kind) });
        }
        Ok(vocab)
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    fn text(&self, id: u32) -> &'a str {
        self.tokens.get(id as usize).map_or("", |token| token.text)
    }
}

/// A string array under `key`; an error when the key holds anything else.
fn strings<'a>(
    gguf: &Gguf<'a>,
    key: &str,
) -> Result<Option<impl Iterator<Item = &'a str> + use<'a>>> {
    let Some(value) = gguf.get(key) else {
        return Ok(None);
    };
    match value.as_array().and_then(|array| array.strings()) {
        Some(strings) => Ok(Some(strings)),
        None => {
            Err(Error::format("the value is not an array of strings").at(format_args!("key {key}")))
        }
    }
}

/// An array of numbers under `key` with at least `count` elements, the first `count` of them.
fn numbers(gguf: &Gguf<'_>, key: &str, count: usize) -> Result<Option<Vec<f32>>> {
    let Some(value) = gguf.get(key) else {
        return Ok(None);
    };
    let refuse = |message: String| Err(Error::format(message).at(format_args!("key {key}")));
    let Some(array) = value.as_array() else {
        return refuse("the value is not an array".into());
    };
    if array.len() < count {
        return refuse(format!("{} values for {count} tokens", array.len()));
    }
    let numbers = array.iter().take(count).map(|value| value.as_f64().map(|v| v as f32));
    match numbers.collect() {
        Some(numbers) => Ok(Some(numbers)),
        None => refuse("the elements are not numbers".into()),
    }
}

fn kinds(gguf: &Gguf<'_>, count: usize) -> Result<Vec<Kind>> {
    let Some(types) = numbers(gguf, "tokenizer.ggml.token_type", count)? else {
        return Ok(vec![Kind::Normal; count]);
    };
    let kind = |tag: f32| match tag {
        2.0 => Kind::Unknown,
        3.0 => Kind::Control,
        4.0 => Kind::UserDefined,
        6.0 => Kind::Byte,
        _ => Kind::Normal,
    };
    Ok(types.into_iter().map(kind).collect())
}

impl GgufTokenizer {
    /// Reads the tokenizer of a file; `None` when it has none.
    pub fn read(gguf: &Gguf<'_>) -> Result<Option<GgufTokenizer>> {
        let key = "tokenizer.ggml.model";
        let Some(model) = gguf.str(key)? else {
            return Ok(None);
        };
        let spm = match model {
            "llama" => true,
            "gpt2" => false,
            other => {
                return Err(Error::unsupported(format!("tokenizer model {other}"))
                    .at(format_args!("key {key}")));
            }
        };
        let vocab = Vocab::read(gguf)?;
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match gguf.u64(&key)? {
                None => Ok(default.filter(|&id| (id as usize) < vocab.tokens.len())),
                Some(id) => match u32::try_from(id) {
                    Ok(id) if (id as usize) < vocab.tokens.len() => Ok(Some(id)),
                    _ => Err(Error::format(format!("token {id} of {} tokens", vocab.tokens.len()))
                        .at(format_args!("key {key}"))),
                },
            }
        };
        let spm_default = |id: u32| spm.then_some(id);
        let (bos, eos) = (id("bos", spm_default(1))?, id("eos", spm_default(2))?);
        let unk = id("unknown", spm_default(0))?;
        let (parts, add_bos) = if spm {
            (spm::parts(gguf, &vocab)?, true)
        } else {
            let pre = bpe::PreTokenizer::read(gguf)?;
            (bpe::parts(gguf, &vocab, pre)?, pre.adds_bos())
        };
        let add_bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        for (add, token, name) in [(add_bos, bos, "bos"), (add_eos, eos, "eos")] {
            if add && token.is_none() {
                return Err(Error::missing(format!("no key tokenizer.ggml.{name}_token_id"))
                    .at(format_args!("key tokenizer.ggml.add_{name}_token")));
            }
        }
        let ends = [eos, id("eot", None)?, id("eom", None)?];
        let json = serialise(
            &vocab,
            &parts,
            unk.filter(|_| spm),
            bos.filter(|_| add_bos),
            eos.filter(|_| add_eos),
        )?;
        let chat_template = gguf.str("tokenizer.chat_template")?.map(str::to_owned);
        Ok(Some(GgufTokenizer {
            json,
            vocab_size: vocab.tokens.len(),
            bos,
            eos,
            unk,
            pad: id("padding", None)?,
            end_of_generation: special::end_of_generation(&vocab, &ends),
            add_bos,
            add_eos,
            chat_template,
        }))
    }
}

/// `tokenizer.json` as `tokenizers` 0.23 reads it, serialised without a tree in memory.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: &'a Json,
    pre_tokenizer: &'a Json,
    post_processor: Json,
    decoder: &'a Json,
    model: Model<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: VocabJson<'a>,
    merges: MergesJson<'a>,
}

struct VocabJson<'a>(&'a Vocab<'a>);

impl Serialize for VocabJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.tokens.len()))?;
        for (id, token) in self.0.tokens.iter().enumerate() {
            map.serialize_entry(token.text, &id)?;
        }
        map.end()
    }
}

struct MergesJson<'a>(&'a Vocab<'a>, &'a [(u32, u32)]);

impl Serialize for MergesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.1.len()))?;
        for &(left, right) in self.1 {
            seq.serialize_element(&[self.0.text(left), self.0.text(right)])?;
        }
        seq.end()
    }
}

fn serialise(
    vocab: &Vocab<'_>,
    parts: &Parts,
    unk: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<String> {
    let added = (0u32..).zip(&vocab.tokens).filter_map(|(id, token)| {
        let special = match token.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Byte => return None,
        };
        Some(AddedToken {
            id,
            content: token.text,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        })
    });
    let tokenizer = TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added.collect(),
        normalizer: &parts.normalizer,
        pre_tokenizer: &parts.pre_tokenizer,
        post_processor: post_processor(vocab, bos, eos),
        decoder: &parts.decoder,
        model: Model {
            r#type: "BPE",
            dropout: None,
            unk_token: unk.map(|id| vocab.text(id)),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: parts.byte_fallback,
            ignore_merges: parts.ignore_merges,
            vocab: VocabJson(vocab),
            merges: MergesJson(vocab, &parts.merges),
        },
    };
    serde_json::to_string(&tokenizer)
        .map_err(|error| Error::format(format!("the tokenizer cannot be written: {error}")))
        .at("tokenizer")
}

/// Adds BOS before and EOS after a sequence.
fn post_processor(vocab: &Vocab<'_>, bos: Option<u32>, eos: Option<u32>) -> Json {
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let mut special_tokens = serde_json::Map::new();
    for id in bos.into_iter().chain(eos) {
        let text = vocab.text(id);
        special_tokens.insert(text.into(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    let template = |sequence: &str, type_id: u32| {
        let special =
            |id: u32| json!({ "SpecialToken": { "id": vocab.text(id), "type_id": type_id } });
        let mut pieces: Vec<Json> = bos.map(special).into_iter().collect();
        pieces.push(json!({ "Sequence": { "id": sequence, "type_id": type_id } }));
        pieces.extend(eos.map(special));
        pieces
    };
    let single = template("A", 0);
    let pair: Vec<Json> = single.iter().cloned().chain(template("B", 1)).collect();
    json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special_tokens,
    })
}
