use std::ffi::c_void;

use limbeck_ffi::*;
use runtime::text::{Finish, GenerateOptions, Piece};
use runtime::{Sequence, Usage};

use super::session::Session;
use super::usage::UsageHandle;
use super::{Handle, check, written};
use crate::api::{Continued, GenerationApi, OnPiece, Result};

pub struct Generation(Handle<lbk_generation>);

impl Generation {
    pub fn new(
        session: &Session,
        sequence: Sequence,
        prompt: &[u32],
        samples: usize,
        options: &GenerateOptions,
    ) -> Result<Generation> {
        let text = |text: &String| lbk_text { data: text.as_ptr().cast(), length: text.len() };
        let stop: Vec<lbk_text> = options.stop.iter().map(text).collect();
        let given = to_c(options, samples, &stop);
        // SAFETY: the session is alive; prompt, options and what they point to outlive the call.
        let generation = Handle::new(lbk_generation_free, |out| unsafe {
            let (tokens, count) = (prompt.as_ptr(), prompt.len());
            lbk_generation_new(session.0.pointer, sequence.to_bits(), tokens, count, &given, out)
        })?;
        Ok(Generation(generation))
    }
}

fn to_c(options: &GenerateOptions, samples: usize, stop: &[lbk_text]) -> lbk_generate_options {
    let mut given = lbk_generate_options::default();
    // SAFETY: the struct is as large as the size says.
    unsafe { lbk_generate_options_init(&mut given, size_of::<lbk_generate_options>()) };
    let sampler = &options.sampler;
    lbk_generate_options {
        max_tokens: options.max_tokens,
        samples,
        seed: sampler.seed,
        top_k: sampler.top_k,
        penalty_window: sampler.penalty_window.unwrap_or(0),
        temperature: sampler.temperature,
        top_p: sampler.top_p,
        min_p: sampler.min_p,
        repetition_penalty: sampler.repetition_penalty,
        presence_penalty: sampler.presence_penalty,
        frequency_penalty: sampler.frequency_penalty,
        stop: stop.as_ptr(),
        stop_count: stop.len(),
        stop_tokens: options.stop_tokens.as_ptr(),
        stop_token_count: options.stop_tokens.len(),
        ignore_eos: options.ignore_eos.into(),
        ..given
    }
}

unsafe extern "C" fn on_piece(piece: *const lbk_piece, user_data: *mut c_void) -> i32 {
    // SAFETY: `Generation::run` gave this pointer; the piece and its text live until this returns.
    let (sink, piece, text) = unsafe {
        let piece = &*piece;
        let text = std::slice::from_raw_parts(piece.text.data.cast::<u8>(), piece.text.length);
        (&mut *user_data.cast::<OnPiece<'_>>(), piece, text)
    };
    let flow = sink(Piece {
        sample: piece.sample,
        token: (piece.has_token != 0).then_some(piece.token),
        logprob: piece.logprob,
        text: std::str::from_utf8(text).expect("UTF-8"),
    });
    flow.is_break().into()
}

// In each method the handles are alive, and results have places of their types.
impl GenerationApi for Generation {
    type Session = Session;

    fn run(&mut self, session: &mut Session, mut sink: OnPiece<'_>) -> Result<()> {
        let data = (&raw mut sink).cast();
        // SAFETY: as above; the sink outlives the call.
        check(unsafe {
            lbk_generation_run(self.0.pointer, session.0.pointer, Some(on_piece), data)
        })
    }

    fn faulty_run(&mut self, session: &mut Session) -> Result<()> {
        // SAFETY: as above.
        check(unsafe {
            lbk_test_panic(session.0.pointer);
            lbk_generation_run(self.0.pointer, session.0.pointer, None, std::ptr::null_mut())
        })
    }

    fn committed(&mut self) -> usize {
        // SAFETY: as above.
        written(0, |out| unsafe { lbk_generation_committed(self.0.pointer, out) })
            .expect("how many")
    }

    fn progress(&mut self, sample: usize) -> Option<Continued> {
        let size = size_of::<lbk_progress>();
        // SAFETY: of zeros, all fields have a value; as above.
        let found = written(unsafe { std::mem::zeroed::<lbk_progress>() }, |out| unsafe {
            lbk_generation_get_progress(self.0.pointer, sample, out, size)
        });
        let found = found.ok()?;
        let tokens = if found.token_count == 0 {
            Vec::new()
        } else {
            // SAFETY: so many tokens live until the generation is run again.
            unsafe { std::slice::from_raw_parts(found.tokens, found.token_count) }.to_vec()
        };
        let finish = match found.finish {
            LBK_FINISH_NOT => None,
            LBK_FINISH_END_OF_TEXT => Some(Finish::EndOfText),
            LBK_FINISH_STOP_STRING => Some(Finish::StopString),
            LBK_FINISH_MAX_TOKENS => Some(Finish::MaxTokens),
            LBK_FINISH_CONTEXT => Some(Finish::Context),
            LBK_FINISH_CALLBACK => Some(Finish::Callback),
            other => panic!("finished by {other}"),
        };
        Some(Continued { sequence: Sequence::from_bits(found.sequence), tokens, finish })
    }

    fn usage(&mut self) -> [Usage; 2] {
        let (prefill, decode) = (UsageHandle::new(), UsageHandle::new());
        // SAFETY: as above.
        let error = unsafe {
            lbk_generation_add_usage(self.0.pointer, prefill.pointer(), decode.pointer())
        };
        check(error).expect("usages");
        [prefill.read(), decode.read()]
    }
}
