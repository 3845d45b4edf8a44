//! What a checkpoint's `tokenizer.json` must fit.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// Refuses a tokenizer with ids that the student has no rows for.
pub(crate) fn check(json: &str, rows: usize) -> Result<()> {
    #[derive(Deserialize)]
    struct File<'a> {
        #[serde(default)]
        added_tokens: Vec<Added>,
        #[serde(borrow)]
        model: Model<'a>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u64,
    }
    #[derive(Deserialize)]
    struct Model<'a> {
        #[serde(borrow)]
        vocab: &'a RawValue,
    }
    let file: File<'_> = serde_json::from_str(json).map_err(unreadable)?;
    let vocab = file.model.vocab.get();
    let tokens = if vocab.starts_with('[') {
        serde_json::from_str::<Vec<IgnoredAny>>(vocab).map(|list| list.len() as u64)
    } else {
        serde_json::from_str::<HashMap<String, u64>>(vocab)
            .map(|map| map.into_values().max().map_or(0, |id| id.saturating_add(1)))
    };
    let added = file.added_tokens.iter().map(|added| added.id.saturating_add(1)).max();
    let tokens = tokens.map_err(unreadable)?.max(added.unwrap_or(0));
    if tokens > rows as u64 {
        let message =
            format!("it has {tokens} tokens, the student {rows}: it belongs to another student");
        return Err(Error::mismatch(message));
    }
    Ok(())
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::mismatch(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_must_have_rows() {
        let map = r#"{"added_tokens":[{"id":3}],"model":{"vocab":{"a":0,"b":2}}}"#;
        let list = r#"{"model":{"vocab":[["a",0.0],["b",-1.0],["c",-2.0]]}}"#;
        for (json, tokens) in [(map, 4), (list, 3)] {
            assert!(check(json, tokens).is_ok());
            let error = check(json, tokens - 1).unwrap_err().to_string();
            assert!(error.contains(&format!("{tokens} tokens")), "{error}");
        }
        for damaged in ["", "{}", r#"{"model":{"vocab":7}}"#, r#"{"model":{"vocab":{"a":-1}}}"#] {
            assert!(check(damaged, 10).is_err(), "{damaged}");
        }
    }
}
