use std::ffi::c_void;
use std::ops::ControlFlow;

use runtime::Sequence;
use runtime::text::{Finish, GenerateOptions, Generator, Piece, SamplerOptions};

use crate::arg;
use crate::bytes::lbk_text;
use crate::error::lbk_error;
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::model::lbk_model;
use crate::options::{self, growing, options};
use crate::session::{copy, lbk_sequence, lbk_session};
use crate::usage::{self, lbk_usage};

/// Why a continuation ended; one of the `LBK_FINISH_*` numbers.
pub type lbk_finish = i32;

/// It goes on.
pub const LBK_FINISH_NOT: lbk_finish = 0;
/// The student ended it, or a stop token did.
pub const LBK_FINISH_END_OF_TEXT: lbk_finish = 1;
/// A stop string.
pub const LBK_FINISH_STOP_STRING: lbk_finish = 2;
/// `max_tokens`.
pub const LBK_FINISH_MAX_TOKENS: lbk_finish = 3;
/// The session's context is full.
pub const LBK_FINISH_CONTEXT: lbk_finish = 4;
/// The callback asked for it.
pub const LBK_FINISH_CALLBACK: lbk_finish = 5;

/// How a prompt is continued, from `lbk_generate_options_init`, which chooses the likeliest tokens,
/// or `lbk_model_generate_options`, which chooses as the student's makers say.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_generate_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// Most tokens of a continuation; 128 by default.
    pub max_tokens: usize,
    /// Continuations, which share the prompt and are computed as one batch; 1 by default.
    pub samples: usize,
    /// Seed of the draws; the same seed gives the same tokens on every platform.
    pub seed: u64,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// How many of the last tokens the penalties see; 0 for all.
    pub penalty_window: usize,
    /// Logits are divided by it; 0 takes the most likely token and ignores the filters.
    pub temperature: f32,
    /// Keeps the smallest set of most likely tokens that has this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this much as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of tokens seen are divided by it, the others multiplied; 1 is neutral.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens seen.
    pub presence_penalty: f32,
    /// Subtracted from a logit once for each time that its token was seen.
    pub frequency_penalty: f32,
    /// Texts that end a continuation; they are not part of it.
    pub stop: *const lbk_text,
    /// How many.
    pub stop_count: usize,
    /// Token ids that end it beside the student's own.
    pub stop_tokens: *const u32,
    /// How many.
    pub stop_token_count: usize,
    /// Not 0: goes on over the student's end-of-text tokens.
    pub ignore_eos: i32,
    /// 0.
    pub reserved: i32,
}

options!(lbk_generate_options: size_of::<usize>() * 2);

impl Default for lbk_generate_options {
    fn default() -> lbk_generate_options {
        lbk_generate_options::with(&SamplerOptions::default())
    }
}

impl lbk_generate_options {
    fn with(sampler: &SamplerOptions) -> lbk_generate_options {
        lbk_generate_options {
            struct_size: size_of::<lbk_generate_options>(),
            max_tokens: GenerateOptions::default().max_tokens,
            samples: 1,
            seed: sampler.seed,
            top_k: sampler.top_k,
            penalty_window: sampler.penalty_window.unwrap_or(0),
            temperature: sampler.temperature,
            top_p: sampler.top_p,
            min_p: sampler.min_p,
            repetition_penalty: sampler.repetition_penalty,
            presence_penalty: sampler.presence_penalty,
            frequency_penalty: sampler.frequency_penalty,
            stop: std::ptr::null(),
            stop_count: 0,
            stop_tokens: std::ptr::null(),
            stop_token_count: 0,
            ignore_eos: 0,
            reserved: 0,
        }
    }

    fn to_rust(self) -> Outcome<GenerateOptions> {
        let stop = arg::slice(self.stop, self.stop_count, "stop")?;
        let text = |t: &lbk_text| arg::text(t.data, t.length, "stop").map(str::to_owned);
        let stop_tokens = arg::slice(self.stop_tokens, self.stop_token_count, "stop_tokens")?;
        Ok(GenerateOptions {
            max_tokens: self.max_tokens,
            sampler: SamplerOptions {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                penalty_window: (self.penalty_window > 0).then_some(self.penalty_window),
                seed: self.seed,
            },
            stop: stop.iter().map(text).collect::<Outcome<_>>()?,
            stop_tokens: copy(stop_tokens)?,
            ignore_eos: self.ignore_eos != 0,
        })
    }
}

/// One step of the stream.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_piece {
    /// Which continuation.
    pub sample: usize,
    /// Text that became certain, in UTF-8: empty while a character is incomplete. It lives until the
    /// callback returns.
    pub text: lbk_text,
    /// The continuation's newest token, if `has_token`.
    pub token: u32,
    /// 1 for a token; 0 where text that was held back comes at the end.
    pub has_token: i32,
    /// The token's log-probability by the student's logits.
    pub logprob: f32,
    /// 0.
    pub reserved: i32,
}

/// Hears each token: the token is committed when it returns. 0 goes on, anything else ends this
/// continuation. The thread that called `lbk_generation_run` calls it. It must not throw or jump out;
/// what it calls of the same session or generation fails with `LBK_BUSY`.
pub type lbk_piece_fn =
    Option<unsafe extern "C" fn(piece: *const lbk_piece, user_data: *mut c_void) -> i32>;

/// A prompt and its continuations in progress. One call at a time may use it, together with its
/// session: `LBK_BUSY` otherwise. It may outlive the session, and then only be read.
pub struct lbk_generation {
    generator: Exclusive<Generator>,
}

/// How far a continuation has come. Its parts live until the generation is run again or freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_progress {
    /// The sequence that holds the prompt and the tokens: all of them, or all but the last one, which is
    /// fed back only when another is wanted. `lbk_session_position` tells; what it does not hold belongs
    /// before the next prompt.
    pub sequence: lbk_sequence,
    /// Tokens that are committed. A token that ends texts is not among them; that which completed a stop
    /// string is, and that at which the callback ended the continuation.
    pub tokens: *const u32,
    /// The log-probability of each.
    pub logprobs: *const f32,
    /// How many.
    pub token_count: usize,
    /// The text that is certain; empty for a plan without a tokenizer.
    pub text: lbk_text,
    /// Why it ended; `LBK_FINISH_NOT` while it goes on.
    pub finish: lbk_finish,
    /// 0.
    pub reserved: i32,
}

growing!(lbk_progress: 7 * 8);

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generate_options_init(
    options: *mut lbk_generate_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// Fills options with the defaults, tokens being chosen as the student's checkpoint says.
/// `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_model_generate_options(
    model: *const lbk_model,
    options: *mut lbk_generate_options,
    struct_size: usize,
) -> *mut lbk_error {
    guard(|| {
        let sampler = arg::shared(model, "model")?.model.sampler_options();
        let found = lbk_generate_options { struct_size, ..lbk_generate_options::with(&sampler) };
        options::write(&found, options, struct_size, "options")
    })
}

/// Prepares to continue a sequence by a prompt and by what the student says to it; nothing is
/// computed yet. The first continuation goes on in `sequence` itself, the others in forks. `options`
/// may be NULL for the defaults. The caller owns `*generation`.
///
/// `LBK_INVALID` for an empty prompt, options out of range or a sequence that has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_new(
    session: *mut lbk_session,
    sequence: lbk_sequence,
    prompt: *const u32,
    prompt_count: usize,
    options: *const lbk_generate_options,
    generation: *mut *mut lbk_generation,
) -> *mut lbk_error {
    guard(|| {
        let handle = arg::shared(session, "session")?;
        let out = arg::out(generation, "generation")?;
        let prompt = arg::slice(prompt, prompt_count, "prompt")?;
        let given = options::read(options, "options")?;
        let options = given.to_rust()?;
        let session = handle.session.enter("session")?;
        let sequence = Sequence::from_bits(sequence);
        let generator = Generator::new(&session, sequence, prompt, given.samples, &options)?;
        out.give(lbk_generation { generator: Exclusive::new(generator) });
        Ok(())
    })
}

/// Computes until every continuation has ended, and gives each token to `on_piece`, which may be
/// NULL. Where it fails or is cancelled, the tokens that are committed stay so, and another call goes
/// on after them as if nothing had happened: `lbk_generation_committed` and
/// `lbk_generation_get_progress` tell where it stands. `session` is the one that it was made with.
///
/// Fails as `lbk_session_step`, and with `LBK_INVALID` for another session or for sequences that have
/// another length than it left them with. One whose tokens were replaced by as many others is continued as
/// it is then: leave a generation's sequences alone until it has ended. After `LBK_INTERNAL` the session goes on, and the generation cannot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_run(
    generation: *mut lbk_generation,
    session: *mut lbk_session,
    on_piece: lbk_piece_fn,
    user_data: *mut c_void,
) -> *mut lbk_error {
    guard(|| {
        let generation = arg::shared(generation, "generation")?;
        let handle = arg::shared(session, "session")?;
        let mut generator = generation.generator.enter("generation")?;
        let mut session = handle.session.enter("session")?;
        let result = generator.run(&mut session, |piece| {
            handle.hooks.trip();
            let Some(on_piece) = on_piece else { return ControlFlow::Continue(()) };
            let piece = to_c(&piece);
            // SAFETY: the app gave the two together; the piece lives until it returns.
            match unsafe { on_piece(&piece, user_data) } {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        Ok(result?)
    })
}

fn to_c(piece: &Piece<'_>) -> lbk_piece {
    lbk_piece {
        sample: piece.sample,
        text: lbk_text::of(piece.text),
        token: piece.token.unwrap_or(0),
        has_token: piece.token.is_some().into(),
        logprob: piece.logprob,
        reserved: 0,
    }
}

/// Tokens of all continuations that are committed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_committed(
    generation: *mut lbk_generation,
    tokens: *mut usize,
) -> *mut lbk_error {
    guard(|| {
        let generation = arg::shared(generation, "generation")?;
        let out = arg::out(tokens, "tokens")?;
        out.set(generation.generator.enter("generation")?.committed());
        Ok(())
    })
}

/// How far a continuation has come. `size` is `sizeof *progress`. `LBK_INVALID` for a sample that is
/// none, and until the prompt is computed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_get_progress(
    generation: *mut lbk_generation,
    sample: usize,
    progress: *mut lbk_progress,
    size: usize,
) -> *mut lbk_error {
    guard(|| {
        let generation = arg::shared(generation, "generation")?;
        let generator = generation.generator.enter("generation")?;
        let found = generator.progress(sample).ok_or_else(|| {
            let message = format!("sample: there is no continuation {sample} yet");
            lbk_error::argument("sample", &message)
        })?;
        let found = lbk_progress {
            sequence: found.sequence.to_bits(),
            tokens: found.tokens.as_ptr(),
            logprobs: found.logprobs.as_ptr(),
            token_count: found.tokens.len(),
            text: lbk_text::of(found.text),
            finish: finish(found.finish),
            reserved: 0,
        };
        options::write(&found, progress, size, "progress")
    })
}

fn finish(finish: Option<Finish>) -> lbk_finish {
    match finish {
        None => LBK_FINISH_NOT,
        Some(Finish::EndOfText) => LBK_FINISH_END_OF_TEXT,
        Some(Finish::StopString) => LBK_FINISH_STOP_STRING,
        Some(Finish::Context) => LBK_FINISH_CONTEXT,
        Some(Finish::Callback) => LBK_FINISH_CALLBACK,
        Some(_) => LBK_FINISH_MAX_TOKENS,
    }
}

/// Adds what the prompt took to `prefill`, and what the continuations took to `decode`; either may be
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_add_usage(
    generation: *mut lbk_generation,
    prefill: *mut lbk_usage,
    decode: *mut lbk_usage,
) -> *mut lbk_error {
    guard(|| {
        let generation = arg::shared(generation, "generation")?;
        let generator = generation.generator.enter("generation")?;
        usage::add(prefill, generator.prefill_usage())?;
        usage::add(decode, generator.decode_usage())
    })
}

/// Frees a generation; NULL is fine. Its sequences stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_generation_free(generation: *mut lbk_generation) {
    arg::free(generation);
}
