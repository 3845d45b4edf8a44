//! Byte-pair encoding in little memory: the BPE model of a `tokenizer.json` as flat tables.
//!
//! Gives the tokens of the tokenizers crate's `BPE`, which keeps strings and hash maps several
//! times the size of the file. The file is read in passes, each straight into its table.

mod index;
mod merges;
#[cfg(test)]
mod tests;
mod vocab;
mod word;

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;
use tokenizers::Token;

use self::merges::{Merges, MergesOf};
use self::vocab::Vocab;
use self::word::Word;
use crate::{Error, ErrorKind, Result};

/// The fields of a model in a `tokenizer.json`, as far as BPE has them.
#[derive(Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// Whether this is a BPE model; old files do not name the type.
    pub(super) fn is_bpe(&self) -> bool {
        self.kind.as_deref().map_or(self.merges.is_some(), |kind| kind == "BPE")
    }
}

/// Bytes that an `unk_token` or an `end_of_word_suffix` may have: each character, each word grows
/// by them.
const MAX_ADDED: usize = 256;

/// What a character that is no token becomes.
enum Unknown {
    /// Nothing.
    Dropped,
    /// A token.
    Token(u32),
    /// An error, since its token is not in the vocabulary.
    Missing,
}

/// A BPE model.
pub(super) struct Bpe {
    vocab: Vocab,
    merges: Merges,
    unknown: Unknown,
    /// A run of unknown characters becomes one token.
    fuse_unk: bool,
    /// Tokens such as `<0x41>` stand for their bytes.
    byte_fallback: bool,
    /// Written behind the last character of a word.
    end_of_word_suffix: Option<String>,
    /// A word that is a token is not merged from its characters.
    ignore_merges: bool,
}

impl Bpe {
    /// Builds the tables.
    ///
    /// # Errors
    /// Plan, when the fields are damaged; unsupported, with `dropout`, which makes
    /// encoding random, or with a `continuing_subword_prefix`.
    pub(super) fn new(fields: Fields<'_>) -> Result<Bpe> {
        if fields.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(unsupported("a BPE model with dropout is not supported"));
        }
        if fields.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
            return Err(unsupported(
                "a BPE model with a continuing_subword_prefix is not supported",
            ));
        }
        for added in [&fields.unk_token, &fields.end_of_word_suffix] {
            if added.as_ref().is_some_and(|added| added.len() > MAX_ADDED) {
                return Err(unsupported("its unk_token or end_of_word_suffix is too long"));
            }
        }
        let (Some(vocab), Some(merges)) = (fields.vocab, fields.merges) else {
            let message = "a BPE model needs a vocabulary and merges";
            return Err(Error::new(ErrorKind::Plan, message).at("model"));
        };
        let vocab: Vocab = serde_json::from_str(vocab.get()).map_err(damaged)?;
        let mut reader = serde_json::Deserializer::from_str(merges.get());
        let merges = MergesOf(&vocab).deserialize(&mut reader).map_err(damaged)?;
        let unknown = match fields.unk_token {
            None => Unknown::Dropped,
            Some(token) => vocab.id(&token).map_or(Unknown::Missing, Unknown::Token),
        };
        Ok(Bpe {
            vocab,
            merges,
            unknown,
            fuse_unk: fields.fuse_unk.unwrap_or_default(),
            byte_fallback: fields.byte_fallback.unwrap_or_default(),
            end_of_word_suffix: fields.end_of_word_suffix,
            ignore_merges: fields.ignore_merges.unwrap_or_default(),
        })
    }

    /// The tokens of a word.
    ///
    /// # Errors
    /// An unknown character, when its token is missing.
    pub(super) fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        if u32::try_from(text.len()).is_err() {
            return Err("a word is too long".into());
        }
        if text.is_empty() {
            return Ok(Vec::new());
        }
        if self.ignore_merges
            && let Some(id) = self.vocab.id(text)
        {
            return Ok(vec![Token::new(id, text.to_owned(), (0, text.len()))]);
        }
        let mut word = self.symbols(text)?;
        word.merge(&self.merges);
        let mut begin = 0;
        let tokens = word.symbols().map(|(id, len)| {
            let end = begin + len as usize;
            let token = self.vocab.token(id).unwrap_or_default();
            Token::new(id, token.to_owned(), (std::mem::replace(&mut begin, end), end))
        });
        Ok(tokens.collect())
    }

    /// The id of a token.
    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocab.id(token)
    }

    /// The token of an id.
    pub(super) fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocab.token(id).map(str::to_owned)
    }

    /// All tokens with their ids.
    pub(super) fn vocab(&self) -> HashMap<String, u32> {
        self.vocab.iter().map(|(token, id)| (token.to_owned(), id)).collect()
    }

    /// Number of tokens.
    pub(super) fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The characters of a word as symbols. Unknown characters are held back until a known one
    /// follows, and byte tokens do not count as one: so does the tokenizers crate.
    fn symbols(&self, text: &str) -> tokenizers::Result<Word> {
        let mut word = Word::default();
        let mut held_back = 0;
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (symbol, after) = rest.split_at(character.len_utf8());
            let len = symbol.len() as u32;
            rest = after;
            let symbol = match &self.end_of_word_suffix {
                Some(suffix) if rest.is_empty() => Cow::Owned(format!("{symbol}{suffix}")),
                _ => Cow::Borrowed(symbol),
            };
            if let Some(id) = self.vocab.id(&symbol) {
                self.push_unknown(&mut held_back, &mut word);
                word.push(id, len);
            } else if let Some(bytes) = self.byte_tokens(&symbol) {
                bytes.into_iter().for_each(|id| word.push(id, 1));
            } else {
                if let Unknown::Missing = self.unknown {
                    return Err("its unk_token is no token".into());
                }
                if !self.fuse_unk {
                    self.push_unknown(&mut held_back, &mut word);
                }
                held_back += len;
            }
        }
        self.push_unknown(&mut held_back, &mut word);
        Ok(word)
    }

    /// Appends the token of unknown characters of so many bytes.
    fn push_unknown(&self, bytes: &mut u32, word: &mut Word) {
        let bytes = std::mem::take(bytes);
        if let Unknown::Token(id) = self.unknown
            && bytes > 0
        {
            word.push(id, bytes);
        }
    }

    /// The byte tokens of a symbol; none unless there is one for each byte.
    fn byte_tokens(&self, symbol: &str) -> Option<Vec<u32>> {
        let token = |byte| self.vocab.id(&format!("<{byte:#04X}>"));
        self.byte_fallback.then(|| symbol.bytes().map(token).collect())?
    }
}

fn damaged(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Plan, "is damaged").caused_by(error).at("model")
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, message).at("model")
}
