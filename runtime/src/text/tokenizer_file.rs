//! A `tokenizer.json`, taken apart: what could make a text grow without bound is refused before
//! anything is built from it, and a BPE model is read into tables of our own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as Custom};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Token, TokenizerBuilder, TokenizerImpl,
};

use super::bpe::{Bpe, Fields};
use crate::{Error, ErrorKind, Result};

/// How much longer each stage may make a text, in bytes per byte.
const MAX_GROWTH: u64 = 256;

/// All stages of a tokenizer.
pub(super) type Pipeline = TokenizerImpl<
    AnyModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The parts of a file; those that can be large stay in its text.
#[derive(Deserialize)]
pub(super) struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: &'a RawValue,
}

/// A token with its id, which is nothing new: the vocabulary or the order of tokens gives it.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "id")]
    _id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

impl<'a> File<'a> {
    /// Takes a file apart.
    ///
    /// # Errors
    /// Plan, when it is no tokenizer; unsupported, when it could make texts grow without
    /// bound.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<File<'a>> {
        let file: File<'a> = serde_json::from_slice(bytes).map_err(damaged)?;
        if let Some(version) = file.version.as_deref().filter(|&version| version != "1.0") {
            let message = format!("is of version {version:?}, not 1.0");
            return Err(Error::new(ErrorKind::Plan, message));
        }
        let encoding = growth(&file.normalizer).saturating_mul(growth(&file.pre_tokenizer));
        let stages = [
            ("encoding", encoding),
            ("post_processor", growth(&file.post_processor)),
            ("decoder", growth(&file.decoder)),
        ];
        for (stage, factor) in stages {
            if factor > MAX_GROWTH {
                let message = format!("can make a text more than {MAX_GROWTH} times as long");
                return Err(Error::new(ErrorKind::Unsupported, message).at(stage));
            }
        }
        Ok(file)
    }

    /// The model, when it is BPE.
    ///
    /// # Errors
    /// Plan, when the model is damaged; unsupported, with options that are refused.
    pub(super) fn bpe(&self) -> Result<Option<Bpe>> {
        let fields: Fields<'_> = serde_json::from_str(self.model.get()).map_err(damaged)?;
        fields.is_bpe().then(|| Bpe::new(fields)).transpose()
    }

    /// Builds all stages, around a BPE model or else around the crate's own. May panic on a
    /// hostile file.
    pub(super) fn pipeline(self, bpe: Option<Bpe>) -> tokenizers::Result<Pipeline> {
        let model = match bpe {
            Some(bpe) => AnyModel::Bpe(bpe),
            None => AnyModel::read(self.model.get())?,
        };
        let mut pipeline = TokenizerBuilder::new()
            .with_model(model)
            .with_normalizer(stage(self.normalizer)?)
            .with_pre_tokenizer(stage(self.pre_tokenizer)?)
            .with_post_processor(stage(self.post_processor)?)
            .with_decoder(stage(self.decoder)?)
            .build()?;
        pipeline.add_tokens(self.added_tokens.into_iter().map(|added| added.token))?;
        Ok(pipeline)
    }
}

fn damaged(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Plan, "is damaged").caused_by(error)
}

fn stage<T: DeserializeOwned>(part: Value) -> serde_json::Result<Option<T>> {
    serde_json::from_value(part)
}

/// A bound for how much longer a stage and those nested in it make a text, by their types.
fn growth(part: &Value) -> u64 {
    match part {
        Value::Object(fields) => {
            let own = match fields.get("type").and_then(Value::as_str) {
                Some("Replace") => text_length(fields.get("content")),
                Some("Prepend") => text_length(fields.get("prepend")),
                Some("ByteLevel") => 2,
                Some("Metaspace" | "BertNormalizer") => 3,
                Some("TemplateProcessing") => sequences(fields.get("single")),
                _ => 1,
            };
            fields.values().map(growth).fold(own, u64::saturating_mul)
        }
        Value::Array(items) => items.iter().map(growth).fold(1, u64::saturating_mul),
        _ => 1,
    }
}

fn text_length(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_str).map_or(1, |text| text.len().max(1) as u64)
}

/// How often a post-processing template repeats the text.
fn sequences(template: Option<&Value>) -> u64 {
    let count = match template {
        Some(Value::Array(items)) => {
            items.iter().filter(|item| item.get("Sequence").is_some()).count()
        }
        Some(Value::String(text)) => text.matches('$').count(),
        _ => 1,
    };
    count.max(1) as u64
}

/// The model of a tokenizer.
pub(super) enum AnyModel {
    /// Ours.
    Bpe(Bpe),
    /// Of the tokenizers crate.
    WordPiece(WordPiece),
    WordLevel(WordLevel),
    Unigram(Unigram),
}

/// What says which model it is.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl AnyModel {
    /// A model that is not BPE. Old files do not name the type, and a word-level model is a part of
    /// one of word pieces.
    fn read(text: &str) -> serde_json::Result<AnyModel> {
        let word_piece = |text| serde_json::from_str(text).map(AnyModel::WordPiece);
        let word_level = |text| serde_json::from_str(text).map(AnyModel::WordLevel);
        let unigram = |text| serde_json::from_str(text).map(AnyModel::Unigram);
        match serde_json::from_str::<Kind>(text)?.kind.as_deref() {
            Some("WordPiece") => word_piece(text),
            Some("WordLevel") => word_level(text),
            Some("Unigram") => unigram(text),
            Some(other) => Err(Custom::custom(format!("there is no model {other:?}"))),
            None => word_piece(text).or_else(|_| word_level(text)).or_else(|_| unigram(text)),
        }
    }
}

/// An expression for the model at hand, whichever it is; ours has one of its own.
macro_rules! each {
    ($any:expr, $model:ident => $ours:expr, $theirs:expr) => {
        match $any {
            AnyModel::Bpe($model) => $ours,
            AnyModel::WordPiece($model) => $theirs,
            AnyModel::WordLevel($model) => $theirs,
            AnyModel::Unigram($model) => $theirs,
        }
    };
}

impl Model for AnyModel {
    type Trainer = BpeTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        each!(self, model => model.tokenize(text), model.tokenize(text))
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        each!(self, model => model.token_to_id(token), model.token_to_id(token))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        each!(self, model => model.id_to_token(id), model.id_to_token(id))
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        each!(self, model => model.vocab(), model.get_vocab())
    }

    fn get_vocab_size(&self) -> usize {
        each!(self, model => model.vocab_size(), model.get_vocab_size())
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("the tokenizer of a plan is not saved".into())
    }

    /// Nothing trains: the trait wants an answer.
    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
