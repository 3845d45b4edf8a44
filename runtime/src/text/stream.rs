//! Token ids that arrive one by one, turned into pieces of valid UTF-8.

use std::sync::Arc;

use super::tokenizer::{Decoding, Tokenizer, byte_token, push_bytes};
use crate::Result;

/// Turns a stream of token ids into text. The pieces together are what [`Tokenizer::decode`]
/// gives for all the ids. The cost per token does not depend on how many there were.
///
/// Held back is only what later tokens can change: a character whose bytes are incomplete, and,
/// for tokenizers with byte tokens (`<0x41>`), a run of these, since whether each of them becomes
/// U+FFFD is known only at the end of the run.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Bytes of an incomplete character.
    bytes: Vec<u8>,
    /// Tokens without text so far.
    tokens: Vec<String>,
    /// Whether there was any text, so that later tokens are not the first.
    begun: bool,
}

impl Detokenizer {
    /// A stream that begins a text; `skip_special` leaves special tokens out.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Detokenizer {
        let (bytes, tokens) = (Vec::new(), Vec::new());
        Detokenizer { tokenizer, skip_special, bytes, tokens, begun: false }
    }

    /// Takes the next id and appends to `out` the text that is now certain, if any.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        let Some(token) = self.tokenizer.token(id, self.skip_special) else {
            return Ok(());
        };
        match self.tokenizer.decoding() {
            Decoding::Bytes => {
                push_bytes(&token, &mut self.bytes);
                let certain = complete(&self.bytes);
                if let Some(bytes) = self.bytes.get(..certain) {
                    out.push_str(&String::from_utf8_lossy(bytes));
                }
                self.bytes.drain(..certain);
                Ok(())
            }
            Decoding::Chain { byte_tokens } => {
                let in_run = byte_tokens && byte_token(&token).is_some();
                self.tokens.push(token);
                if in_run { Ok(()) } else { self.release(out) }
            }
        }
    }

    /// Ends the text: appends what was held back, with U+FFFD for what never was complete. The
    /// stream can then take another text.
    pub fn finish(&mut self, out: &mut String) -> Result<()> {
        out.push_str(&String::from_utf8_lossy(&self.bytes));
        self.bytes.clear();
        let released = self.release(out);
        self.tokens.clear();
        self.begun = false;
        released
    }

    /// Appends the text of the waiting tokens. As long as a text has none, they stay, since what
    /// follows may still be at its beginning.
    fn release(&mut self, out: &mut String) -> Result<()> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        if self.begun {
            out.push_str(&self.tokenizer.join_after(std::mem::take(&mut self.tokens))?);
            return Ok(());
        }
        let text = self.tokenizer.join(self.tokens.clone())?;
        if !text.is_empty() {
            out.push_str(&text);
            self.tokens.clear();
            self.begun = true;
        }
        Ok(())
    }
}

/// Length of the part of `bytes` that what follows cannot change: all but an incomplete
/// character at the end.
fn complete(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for at in tail..bytes.len() {
        let suffix = bytes.get(at..).unwrap_or_default();
        let incomplete = std::str::from_utf8(suffix)
            .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
        if incomplete {
            return at;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixtures;
    use proptest::prelude::*;

    fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
        let mut pieces = Vec::new();
        for &id in ids {
            let mut piece = String::new();
            detokenizer.push(id, &mut piece).unwrap();
            pieces.push(piece);
        }
        let mut piece = String::new();
        detokenizer.finish(&mut piece).unwrap();
        pieces.push(piece);
        pieces
    }

    fn ids(tokenizer: &Tokenizer, tokens: &[&str]) -> Vec<u32> {
        tokens.iter().map(|token| tokenizer.token_to_id(token).unwrap()).collect()
    }

    #[test]
    fn a_character_waits_for_its_bytes() {
        let tokenizer = Arc::new(fixtures::byte_level());
        // U+1F600 is F0 9F 98 80.
        let emoji = tokenizer.encode("a😀b", false).unwrap();
        assert_eq!(stream(&tokenizer, &emoji, false), ["a", "", "", "", "😀", "b", ""]);
        assert_eq!(stream(&tokenizer, &emoji[..3], false), ["a", "", "", "\u{fffd}"]);
        let broken = ids(&tokenizer, &["ð", "a"]);
        assert_eq!(stream(&tokenizer, &broken, false), ["", "\u{fffd}a", ""]);
    }

    #[test]
    fn byte_tokens_wait_for_the_end_of_their_run() {
        let tokenizer = Arc::new(fixtures::byte_fallback());
        let tokens = ids(&tokenizer, &["▁a", "<0xC3>", "<0xA9>", "▁a", "<0xC3>", "b", "<0xA9>"]);
        let expected = ["a", "", "", "é a", "", "\u{fffd}b", "", "\u{fffd}"];
        assert_eq!(stream(&tokenizer, &tokens, false), expected);
    }

    #[test]
    fn wordpiece_joins_and_spaces() {
        let tokenizer = Arc::new(fixtures::wordpiece());
        let tokens = ids(&tokenizer, &["[CLS]", "un", "##do", "it", ".", "[SEP]"]);
        assert_eq!(stream(&tokenizer, &tokens, true).concat(), "undo it.");
        assert_eq!(
            stream(&tokenizer, &tokens, false),
            ["[CLS]", " un", "do", " it", ".", " [SEP]", ""]
        );
    }

    proptest! {
        #[test]
        fn pieces_are_the_decoded_whole(
            which in 0usize..fixtures::ALL.len(),
            draws in prop::collection::vec(0u32..400, 0..40),
            skip_special: bool,
        ) {
            let tokenizer = Arc::new((fixtures::ALL[which])());
            // Some ids lie outside of the vocabulary.
            let limit = tokenizer.vocab_size() as u32 + 2;
            let ids: Vec<u32> = draws.iter().map(|draw| draw % limit).collect();
            let pieces = stream(&tokenizer, &ids, skip_special);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, skip_special).unwrap());
        }

        #[test]
        fn byte_streams_are_decoded_as_a_whole(bytes: Vec<u8>) {
            let tokenizer = Arc::new(fixtures::byte_level());
            let mut detokenizer = Detokenizer::new(tokenizer, false);
            let mut text = String::new();
            for byte in &bytes {
                // In the fixture a byte's id is the byte.
                detokenizer.push(u32::from(*byte), &mut text).unwrap();
                prop_assert!(detokenizer.bytes.len() < 4);
            }
            detokenizer.finish(&mut text).unwrap();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
