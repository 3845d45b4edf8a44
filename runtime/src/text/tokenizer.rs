//! Text to token ids and back, by a `tokenizers` tokenizer (`tokenizer.json`).
//!
//! The file comes with a plan and is hostile until checked. The tokenizers crate trusts it more
//! than that, so two things stand between: what could make a text grow without bound is refused
//! before the file is parsed, and a panic inside of the crate becomes an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::tokenizer::pre_tokenizer::OffsetType;
use tokenizers::{AddedVocabulary, Decoder, DecoderWrapper, Model, PreTokenizer};

use super::tokenizer_file::{File, Pipeline};
use crate::{Error, ErrorKind, Result};

/// A token that stands for the text before; its own text is [`Tokenizer::anchor_text`].
const ANCHOR: &str = "a";

/// Turns text into token ids and back. Shared freely between threads.
pub struct Tokenizer {
    inner: Pipeline,
    /// The added vocabulary again, with special tokens taken as text.
    plain: AddedVocabulary,
    decoding: Decoding,
    /// What [`ANCHOR`] decodes to at the beginning of a text.
    anchor_text: String,
}

/// How the texts of tokens make up a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoding {
    /// Tokens are bytes, written as GPT-2 writes them; the text is all of them, decoded.
    Bytes,
    /// A token's text depends on whether it is the first, and, when there are byte tokens
    /// (`<0x41>`), on the run of byte tokens around it.
    Chain {
        /// Whether tokens such as `<0x41>` stand for bytes.
        byte_tokens: bool,
    },
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Its padding and truncation are ignored.
    ///
    /// # Errors
    /// Plan, when it is damaged; unsupported, when it is of a kind that cannot be
    /// streamed or that could make texts grow without bound.
    pub fn from_bytes(bytes: &[u8]) -> Result<Tokenizer> {
        Self::read(bytes).map_err(|error| error.at("tokenizer"))
    }

    fn read(bytes: &[u8]) -> Result<Tokenizer> {
        let file = File::parse(bytes)?;
        let bpe = file.bpe()?;
        let (inner, plain) = guarded(ErrorKind::Plan, || {
            let inner = file.pipeline(bpe)?;
            let mut plain = inner.get_added_vocabulary().clone();
            plain.set_encode_special_tokens(true);
            Ok((inner, plain))
        })?;
        let decoding = decoding(inner.get_decoder())?;
        let mut tokenizer = Tokenizer { inner, plain, decoding, anchor_text: String::new() };
        tokenizer.anchor_text = tokenizer.join(vec![ANCHOR.to_owned()])?;
        Ok(tokenizer)
    }

    /// The ids of a text. Special tokens written in it, such as `<|im_start|>`, become their
    /// ids; `add_special` adds those that the tokenizer puts around every text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        guarded(ErrorKind::InvalidInput, || {
            Ok(self.inner.encode_fast(text, add_special)?.get_ids().to_vec())
        })
        .map_err(|error| error.at("tokenizer"))
    }

    /// The ids of a text in which special tokens are nothing but text: for what users write.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        guarded(ErrorKind::InvalidInput, || {
            let mut pieces = self.plain.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(splitter) = self.inner.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut pieces)?;
            }
            let model = self.inner.get_model();
            pieces.tokenize(|piece| model.tokenize(piece.get()))?;
            Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
        })
        .map_err(|error| error.at("tokenizer"))
    }

    /// The text of ids; what is not UTF-8 becomes U+FFFD. Ids outside of the vocabulary have no
    /// text, since some students have more ids than tokens. `skip_special` leaves special
    /// tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.join(ids.iter().filter_map(|&id| self.token(id, skip_special)).collect())
    }

    /// The token of an id as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes that a token adds to a text that has begun; they need not be UTF-8.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.id_to_token(id)?;
        match self.decoding {
            Decoding::Bytes => {
                let mut bytes = Vec::new();
                push_bytes(&token, &mut bytes);
                Some(bytes)
            }
            Decoding::Chain { byte_tokens: true } if byte_token(&token).is_some() => {
                byte_token(&token).map(|byte| vec![byte])
            }
            Decoding::Chain { .. } => self.join_after(vec![token]).ok().map(String::into_bytes),
        }
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(super) fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// The token of an id; none for one that has no text.
    pub(super) fn token(&self, id: u32, skip_special: bool) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        let special = self.inner.get_added_vocabulary().is_special_token(&token);
        (!skip_special || !special).then_some(token)
    }

    /// The text of tokens that begin a text.
    pub(super) fn join(&self, tokens: Vec<String>) -> Result<String> {
        guarded(ErrorKind::Plan, || match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens),
            None => Ok(tokens.join(" ")),
        })
        .map_err(|error| error.at("tokenizer"))
    }

    /// The text of tokens that follow others.
    pub(super) fn join_after(&self, mut tokens: Vec<String>) -> Result<String> {
        tokens.insert(0, ANCHOR.to_owned());
        let text = self.join(tokens)?;
        text.strip_prefix(&self.anchor_text).map(str::to_owned).ok_or_else(|| {
            let message = "its decoder changes what comes before a token";
            Error::new(ErrorKind::Unsupported, message).at("tokenizer")
        })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("decoding", &self.decoding)
            .finish_non_exhaustive()
    }
}

/// Appends the bytes of a token written as GPT-2's byte-level BPE writes bytes; a token with any
/// other character is text.
pub(super) fn push_bytes(token: &str, out: &mut Vec<u8>) {
    let begin = out.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(begin);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character stands for (`bytes_to_unicode` of GPT-2's `encoder.py`): printable
/// Latin-1 for itself, the others in order from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    match character {
        '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' => u8::try_from(character).ok(),
        '\u{100}'..='\u{120}' => Some((u32::from(character) - 0x100) as u8),
        '\u{121}'..='\u{142}' => Some((u32::from(character) - 0x121) as u8 + 0x7f),
        '\u{143}' => Some(0xad),
        _ => None,
    }
}

/// The byte of a token such as `<0x41>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Calls into the tokenizers crate. Files that its parser accepts can still make it panic (a
/// template without its tokens, a strip decoder on short tokens, ids at the end of their range),
/// and a plan must not bring a program down; nothing of a panicking call is used afterwards.
fn guarded<T>(kind: ErrorKind, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::new(kind, error.to_string())),
        Err(panic) => {
            let message = format!("it does not work: {}", panic_message(&*panic));
            Err(Error::new(ErrorKind::Plan, message))
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}

/// How a decoder is streamed. Those whose last token reads differently (`CTC`, `BPEDecoder`) or
/// that look across tokens cannot be.
fn decoding(decoder: Option<&DecoderWrapper>) -> Result<Decoding> {
    let chain = |byte_tokens| Ok(Decoding::Chain { byte_tokens });
    let parts = match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => return Ok(Decoding::Bytes),
        None | Some(DecoderWrapper::WordPiece(_) | DecoderWrapper::Metaspace(_)) => {
            return chain(false);
        }
        Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
        Some(single) => std::slice::from_ref(single),
    };
    let (mut byte_tokens, mut fused) = (false, false);
    for part in parts {
        match part {
            DecoderWrapper::ByteFallback(_) if !fused => byte_tokens = true,
            DecoderWrapper::Replace(_) if !fused => (),
            DecoderWrapper::Strip(strip) if strip.stop == 0 => (),
            DecoderWrapper::Fuse(_) => fused = true,
            _ => {
                let message = "its decoder cannot be streamed";
                return Err(Error::new(ErrorKind::Unsupported, message).at("decoder"));
            }
        }
    }
    chain(byte_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixtures;

    #[test]
    fn byte_level_round_trips_and_parses_special_tokens() {
        let tokenizer = fixtures::byte_level();
        for text in ["Hello hello", " \n\té😀", "日本\u{0}", ""] {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        }
        let text = "<|im_start|>hello";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids[0], tokenizer.token_to_id("<|im_start|>").unwrap());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello");
        let plain = tokenizer.encode_plain(text).unwrap();
        assert!(!plain.contains(&ids[0]));
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
        assert_eq!(
            tokenizer.encode_plain("hello").unwrap(),
            tokenizer.encode("hello", false).unwrap()
        );
    }

    #[test]
    fn bytes_of_tokens() {
        let tokenizer = fixtures::byte_level();
        let bytes = |token: &str| tokenizer.token_bytes(tokenizer.token_to_id(token)?);
        assert_eq!(bytes("Ġ").unwrap(), b" ");
        assert_eq!(bytes("Ã").unwrap(), [0xc3]);
        assert_eq!(bytes("<|im_start|>").unwrap(), b"<|im_start|>");
        let tokenizer = fixtures::byte_fallback();
        let bytes = |token: &str| tokenizer.token_bytes(tokenizer.token_to_id(token)?);
        assert_eq!(bytes("<0xC3>").unwrap(), [0xc3]);
        assert_eq!(bytes("▁a").unwrap(), b" a");
        assert_eq!(tokenizer.token_bytes(1 << 20), None);
    }

    /// All 256 characters of the table, against the tokenizers crate's decoder.
    #[test]
    fn every_byte_has_its_character() {
        let mut seen = [false; 256];
        for character in '\0'..'\u{200}' {
            if let Some(byte) = byte_of(character) {
                assert!(!std::mem::replace(&mut seen[byte as usize], true));
                let decoder = tokenizers::decoders::byte_level::ByteLevel::default();
                let decoded = decoder.decode(vec![character.to_string()]).unwrap();
                assert_eq!(decoded, String::from_utf8_lossy(&[byte]));
            }
        }
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn ids_without_a_token_have_no_text() {
        let tokenizer = fixtures::byte_level();
        assert_eq!(tokenizer.decode(&[u32::MAX, 1 << 20], false).unwrap(), "");
        assert_eq!(tokenizer.id_to_token(u32::MAX), None);
    }

    #[test]
    fn damaged_files_are_errors() {
        let whole = fixtures::BYTE_FALLBACK.as_bytes();
        for cut in 0..whole.len() - 1 {
            let error = Tokenizer::from_bytes(&whole[..cut]).unwrap_err();
            assert_eq!((error.kind(), error.place()), (ErrorKind::Plan, Some("tokenizer")));
        }
        for bytes in [&b"\xff\xfe"[..], b"null", b"{}", br#"{"model":{}}"#] {
            assert_eq!(Tokenizer::from_bytes(bytes).unwrap_err().kind(), ErrorKind::Plan);
        }
        let deep = format!("{}{}", r#"{"model":"#, "[".repeat(100_000));
        assert!(Tokenizer::from_bytes(deep.as_bytes()).is_err());
    }

    #[test]
    fn versions_and_added_tokens_are_checked() {
        for (from, to) in [("\"1.0\"", "\"2.0\""), ("\"id\":0,", ""), ("\"lstrip\":false,", "")] {
            assert!(fixtures::BYTE_FALLBACK.contains(from));
            let file = fixtures::BYTE_FALLBACK.replace(from, to);
            assert_eq!(Tokenizer::from_bytes(file.as_bytes()).unwrap_err().kind(), ErrorKind::Plan);
        }
    }

    /// All stages together, and files that do not name the model's type.
    #[test]
    fn gives_the_ids_of_the_tokenizers_crate() {
        for file in
            [fixtures::BYTE_FALLBACK, &fixtures::BYTE_FALLBACK.replace("\"type\":\"BPE\",", "")]
        {
            let tokenizer = Tokenizer::from_bytes(file.as_bytes()).unwrap();
            let theirs = tokenizers::Tokenizer::from_bytes(file).unwrap();
            for text in ["", "ab  a", "<s>a<s>", "é😀x▁ b", "日a日", "\u{0}a\n"] {
                let ids = tokenizer.encode(text, true).unwrap();
                assert_eq!(ids, theirs.encode(text, true).unwrap().get_ids(), "{text:?}");
                assert_eq!(
                    tokenizer.decode(&ids, false).unwrap(),
                    theirs.decode(&ids, false).unwrap()
                );
            }
            assert_eq!(tokenizer.vocab_size(), theirs.get_vocab_size(true));
        }
    }

    #[test]
    fn what_cannot_be_bounded_or_streamed_is_refused() {
        let change = |from: &str, to: &str| {
            assert!(fixtures::BYTE_FALLBACK.contains(from));
            let error = Tokenizer::from_bytes(fixtures::BYTE_FALLBACK.replace(from, to).as_bytes());
            (error.unwrap_err().kind(), to.len())
        };
        let replace = r#"{"type":"Replace","pattern":{"String":" "},"content":"▁"}"#;
        let doubling = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
        let many = vec![doubling; 40].join(",");
        assert_eq!(change(replace, &many).0, ErrorKind::Unsupported);
        let fuse = r#"{"type":"Fuse"}"#;
        let ctc = r#"{"type":"CTC","pad_token":"a","word_delimiter_token":"|","cleanup":true}"#;
        assert_eq!(change(fuse, ctc).0, ErrorKind::Unsupported);
        assert_eq!(change(r#""stop":0"#, r#""stop":1"#).0, ErrorKind::Unsupported);
        let prefix = r#""continuing_subword_prefix":null"#;
        let hostile = r###""continuing_subword_prefix":"##""###;
        assert_eq!(change(prefix, hostile).0, ErrorKind::Unsupported);
    }

    #[test]
    fn a_panic_of_the_crate_is_an_error() {
        let error = guarded::<()>(ErrorKind::InvalidInput, || panic!("boom")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plan);
        assert!(error.to_string().contains("boom"));
    }

    #[test]
    fn shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Tokenizer>();
    }
}
