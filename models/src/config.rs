//! Reading a configuration so that no key is overlooked: a builder takes the keys it knows, and
//! what is left must be known to be harmless.

use std::cell::RefCell;
use std::collections::BTreeSet;

use limbeck_plan::Manifest;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, ErrorKind};

/// Keys that change nothing at inference: book-keeping, training settings, generation defaults
/// (read elsewhere) and sizes that the tensors give.
const HARMLESS: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "auto_map",
    "bad_words_ids",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "mlp_dropout",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "rope_interleaved",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_mrope",
];

/// Most layers of a student.
const MAX_LAYERS: usize = 4096;

/// A JSON object whose keys are ticked off as they are read.
pub struct Config {
    values: Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
    path: String,
}

impl Config {
    /// Reads an object.
    ///
    /// # Errors
    /// A value that is not an object.
    pub fn new(value: &Value) -> Result<Config, Error> {
        Config::nested(value, "")
    }

    /// [`Config::new`] of a value at this key of another configuration, for messages.
    ///
    /// # Errors
    /// A value that is not an object.
    pub fn nested(value: &Value, path: &str) -> Result<Config, Error> {
        let Value::Object(values) = value else {
            let what = if path.is_empty() { "the configuration" } else { path };
            return Err(Error::new(ErrorKind::Mismatch, format!("{what} is not a JSON object")));
        };
        Ok(Config { values: values.clone(), seen: RefCell::default(), path: path.into() })
    }

    fn place(&self, key: &str) -> String {
        if self.path.is_empty() {
            format!("config key {key:?}")
        } else {
            format!("config key \"{}.{key}\"", self.path)
        }
    }

    /// Whether a key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value of a key; `None` when it is absent or null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.seen.borrow_mut().insert(key.into());
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => serde_json::from_value(v.clone()).map(Some).map_err(|e| {
                Error::new(ErrorKind::Mismatch, format!("{} is {v}: {e}", self.place(key)))
            }),
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn require<T: DeserializeOwned>(&self, key: &str) -> Result<T, Error> {
        self.get(key)?.ok_or_else(|| {
            Error::new(ErrorKind::Missing, format!("{} is missing", self.place(key)))
        })
    }

    /// A size: at least 1 and small enough that products of a few sizes do not overflow.
    pub(crate) fn size(&self, key: &str) -> Result<usize, Error> {
        self.size_or(key, None)
    }

    /// As [`Config::size`] with a default.
    pub(crate) fn size_or(&self, key: &str, default: Option<usize>) -> Result<usize, Error> {
        let value: Option<u64> = self.get(key)?;
        let found = value.map(|v| v as usize).or(default);
        match found {
            Some(n) if (1..=1 << 28).contains(&n) => Ok(n),
            Some(n) => Err(self.unsupported(key, &n.to_string())),
            None => self.require(key),
        }
    }

    /// The number of layers, small enough to make a list of them.
    pub(crate) fn layers(&self) -> Result<usize, Error> {
        self.layers_of("num_hidden_layers")
    }

    /// As [`Config::layers`] under another key.
    pub(crate) fn layers_of(&self, key: &str) -> Result<usize, Error> {
        self.size_within(key, MAX_LAYERS)
    }

    /// The positions of the student, no more than a plan may have.
    pub(crate) fn context(&self) -> Result<usize, Error> {
        self.size_within("max_position_embeddings", Manifest::MAX_CONTEXT)
    }

    fn size_within(&self, key: &str, most: usize) -> Result<usize, Error> {
        match self.size(key)? {
            n if n <= most => Ok(n),
            n => Err(self.unsupported(key, &n.to_string())),
        }
    }

    /// Marks keys as known and of no use here.
    pub fn discard(&self, such: impl Fn(&str) -> bool) {
        let keys = self.values.keys().filter(|key| such(key)).cloned();
        self.seen.borrow_mut().extend(keys);
    }

    /// Refuses a value by name.
    pub fn unsupported(&self, key: &str, value: &str) -> Error {
        let message = format!("{} has the value {value}, which is not supported", self.place(key));
        Error::new(ErrorKind::Unsupported, message)
    }

    /// Refuses the first key that no one read, unless it is harmless.
    ///
    /// # Errors
    /// That key.
    pub fn finish(&self, ignored: &BTreeSet<String>) -> Result<(), Error> {
        let seen = self.seen.borrow();
        let says_nothing = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Object(o) => o.is_empty(),
            Value::Array(a) => a.is_empty(),
            _ => false,
        };
        let unknown = self.values.iter().find(|(key, value)| {
            !(seen.contains(*key)
                || ignored.contains(*key)
                || key.starts_with('_')
                || HARMLESS.contains(&key.as_str())
                || says_nothing(value))
        });
        match unknown {
            Some((key, _)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} is not known; if it does not change the computation, \
                     compile with --ignore-key {key}",
                    self.place(key)
                ),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unread_keys_are_refused_by_name_unless_harmless() {
        let config = Config::new(&json!({
            "hidden_size": 8, "torch_dtype": "float16", "warp_factor": 9, "extra": null
        }))
        .unwrap();
        assert_eq!(config.size("hidden_size").unwrap(), 8);
        let e = config.finish(&BTreeSet::new()).unwrap_err();
        assert!(e.to_string().contains("\"warp_factor\""), "{e}");
        assert!(config.finish(&BTreeSet::from(["warp_factor".to_string()])).is_ok());
    }

    #[test]
    fn wrong_types_and_sizes_name_their_key() {
        let config = Config::new(&json!({"a": "x", "b": 0, "c": -3, "d": 1u64 << 40})).unwrap();
        for key in ["a", "b", "c", "d", "absent"] {
            let e = config.size(key).unwrap_err();
            assert!(e.to_string().contains(key), "{e}");
        }
    }
}
