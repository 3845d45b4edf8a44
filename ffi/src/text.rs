use std::ffi::c_char;

use runtime::text::{ChatMessage, Detokenizer};

use crate::arg;
use crate::bytes::{lbk_bytes, lbk_text};
use crate::error::lbk_error;
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::model::lbk_model;

/// Token ids that the caller owns. Any number of threads may read them at once.
pub struct lbk_tokens {
    ids: Vec<u32>,
}

/// How a text is tokenised; one of the `LBK_TOKENISE_*` numbers.
pub type lbk_tokenise_mode = i32;

/// A prompt: with the special tokens that the student wants at its beginning.
pub const LBK_TOKENISE_PROMPT: lbk_tokenise_mode = 0;
/// No token is added; special tokens that are spelt out in the text count, as in that of
/// `lbk_model_render_chat`.
pub const LBK_TOKENISE_RENDERED: lbk_tokenise_mode = 1;
/// No token is added, and special tokens that are spelt out are plain text: for what people write.
pub const LBK_TOKENISE_PLAIN: lbk_tokenise_mode = 2;

/// The tokens of a text of `length` bytes. The caller owns `*tokens`. The first use of a model's
/// tokenizer loads it. `LBK_UNSUPPORTED` where the plan has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_tokenise(
    model: *const lbk_model,
    text: *const c_char,
    length: usize,
    mode: lbk_tokenise_mode,
    tokens: *mut *mut lbk_tokens,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(tokens, "tokens")?);
        let text = arg::text(text, length, "text")?;
        let ids = match mode {
            LBK_TOKENISE_PROMPT => model.model.prompt(text)?,
            LBK_TOKENISE_RENDERED => model.model.tokenizer()?.encode(text, false)?,
            LBK_TOKENISE_PLAIN => model.model.tokenizer()?.encode_plain(text)?,
            other => {
                let message = format!("mode: {other} is none of LBK_TOKENISE_*");
                return Err(lbk_error::argument("mode", &message));
            }
        };
        out.give(lbk_tokens { ids });
        Ok(())
    })
}

/// The ids; they live as long as `tokens`. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tokens_data(tokens: *const lbk_tokens) -> *const u32 {
    arg::maybe(tokens).map_or(std::ptr::null(), |t| t.ids.as_ptr())
}

/// How many there are; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tokens_count(tokens: *const lbk_tokens) -> usize {
    arg::maybe(tokens).map_or(0, |t| t.ids.len())
}

/// Frees token ids; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_tokens_free(tokens: *mut lbk_tokens) {
    arg::free(tokens);
}

/// The text of token ids, in UTF-8; ids that are none have no text. With `skip_special` not 0 special
/// tokens are left out. The caller owns `*text`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_detokenise(
    model: *const lbk_model,
    tokens: *const u32,
    count: usize,
    skip_special: i32,
    text: *mut *mut lbk_bytes,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(text, "text")?);
        let ids = arg::slice(tokens, count, "tokens")?;
        let text = model.model.tokenizer()?.decode(ids, skip_special != 0)?;
        out.give(lbk_bytes::new(text.into_bytes())?);
        Ok(())
    })
}

/// One message of a chat.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: lbk_text,
    /// What was said.
    pub content: lbk_text,
}

/// Messages through the student's chat template; with `answer` not 0 up to the student's turn. A
/// conversation is rendered as a whole each time: rewind the sequence to the tokens that it has in common
/// with the last time, and continue with the rest (`examples/chat.cpp`). The caller owns `*text`: tokenise it by `LBK_TOKENISE_RENDERED`. `LBK_UNSUPPORTED` where the plan has
/// no template, `LBK_INVALID` for messages that the template refuses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_render_chat(
    model: *const lbk_model,
    messages: *const lbk_message,
    count: usize,
    answer: i32,
    text: *mut *mut lbk_bytes,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(text, "text")?);
        let messages = arg::slice(messages, count, "messages")?;
        let messages = messages.iter().map(to_message).collect::<Outcome<Vec<_>>>()?;
        let text = model.model.render_chat(&messages, answer != 0)?;
        out.give(lbk_bytes::new(text.into_bytes())?);
        Ok(())
    })
}

fn to_message(given: &lbk_message) -> Outcome<ChatMessage<'_>> {
    let role = arg::text(given.role.data, given.role.length, "role")?;
    let content = arg::text(given.content.data, given.content.length, "content")?;
    Ok(ChatMessage { role, content })
}

/// Turns token ids that arrive one by one into text. One call at a time may use it.
pub struct lbk_detokenizer {
    stream: Exclusive<(Detokenizer, String)>,
}

/// A stream that begins a text. The caller owns `*detokenizer`, which keeps what it needs of the
/// model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_detokenizer_new(
    model: *const lbk_model,
    skip_special: i32,
    detokenizer: *mut *mut lbk_detokenizer,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(detokenizer, "detokenizer")?);
        let stream = Detokenizer::new(model.model.tokenizer()?.clone(), skip_special != 0);
        out.give(lbk_detokenizer { stream: Exclusive::new((stream, String::new())) });
        Ok(())
    })
}

/// Takes the next id and gives the text that it made certain, in UTF-8: empty while a character is
/// incomplete. The text lives until the stream is used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_detokenizer_push(
    detokenizer: *mut lbk_detokenizer,
    token: u32,
    text: *mut lbk_text,
) -> *mut lbk_error {
    guard(|| piece(detokenizer, text, |stream, piece| stream.push(token, piece)))
}

/// Ends the text: gives what was held back. The stream can then take another text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_detokenizer_finish(
    detokenizer: *mut lbk_detokenizer,
    text: *mut lbk_text,
) -> *mut lbk_error {
    guard(|| piece(detokenizer, text, Detokenizer::finish))
}

fn piece(
    detokenizer: *mut lbk_detokenizer,
    text: *mut lbk_text,
    step: impl FnOnce(&mut Detokenizer, &mut String) -> runtime::Result<()>,
) -> Outcome {
    let (detokenizer, out) = (arg::shared(detokenizer, "detokenizer")?, arg::out(text, "text")?);
    let mut stream = detokenizer.stream.enter("detokenizer")?;
    let (stream, piece) = &mut *stream;
    piece.clear();
    step(stream, piece)?;
    out.set(lbk_text::of(piece));
    Ok(())
}

/// Frees a stream; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_detokenizer_free(detokenizer: *mut lbk_detokenizer) {
    guard_value((), || arg::free(detokenizer));
}
