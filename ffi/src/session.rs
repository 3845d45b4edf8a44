use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use runtime::{
    Control, KvFormat, LogitsRow, Sequence, Session, SessionOptions, Usage, Wanted, Work,
};

use crate::arg;
use crate::bytes::lbk_bytes;
use crate::control::{lbk_control, lbk_status, write_status};
use crate::engine::limit;
use crate::error::lbk_error;
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::hooks::Hooks;
use crate::model::lbk_model;
use crate::options::{self, options};
use crate::usage::{self, lbk_usage};

/// How keys and values are kept; one of the `LBK_KV_*` numbers.
pub type lbk_kv = i32;

/// 16-bit floats.
pub const LBK_KV_F16: lbk_kv = 0;
/// 32-bit floats.
pub const LBK_KV_F32: lbk_kv = 1;
/// 8-bit integers with a scale per position and head.
pub const LBK_KV_Q8: lbk_kv = 2;

/// Names a sequence of one session; never 0. A number that names none, such as that of a freed
/// sequence, is refused with `LBK_INVALID`.
pub type lbk_sequence = u64;

/// Which logits a step gives; one of the `LBK_WANTED_*` numbers.
pub type lbk_wanted = i32;

/// Those after the last token.
pub const LBK_WANTED_LAST: lbk_wanted = 0;
/// Those after each token.
pub const LBK_WANTED_ALL: lbk_wanted = 1;
/// None.
pub const LBK_WANTED_NONE: lbk_wanted = 2;

/// Sequences of tokens over one model, with their own memory and cache. One call at a time may use
/// it, from any thread: `LBK_BUSY` otherwise. Several sessions of a model work side by side.
pub struct lbk_session {
    pub(crate) session: Exclusive<Session>,
    control: Control,
    pub(crate) hooks: Hooks,
}

/// Options of a session, from `lbk_session_options_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_session_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// Positions that a sequence may have; 0 takes the student's context length.
    pub context: usize,
    /// Positions that all sequences together may keep, shared ones counted once, in blocks of 32 of one
    /// sequence; 0 takes 8 times the context. Memory is taken as it is used.
    pub cache_tokens: usize,
    /// Tokens that are computed at a time; longer calls are split, which changes no result. 256 by
    /// default.
    pub chunk: usize,
    /// Bytes that cache, buffers and scratch may take; 0 for no limit but the engine's. Cache and
    /// buffers are counted before they are taken, the kernels' scratch when a chunk has run and before
    /// it commits: for the time of a chunk the limits may be exceeded by it.
    pub memory_limit: u64,
    /// How keys and values are kept.
    pub kv: lbk_kv,
    /// 0.
    pub reserved: i32,
}

options!(lbk_session_options: size_of::<usize>() * 4);

impl Default for lbk_session_options {
    fn default() -> lbk_session_options {
        let SessionOptions { context, cache_tokens, chunk, .. } = SessionOptions::default();
        lbk_session_options {
            struct_size: size_of::<lbk_session_options>(),
            context,
            cache_tokens,
            chunk,
            memory_limit: 0,
            kv: LBK_KV_F16,
            reserved: 0,
        }
    }
}

impl lbk_session_options {
    pub(crate) fn read(pointer: *const lbk_session_options) -> Outcome<SessionOptions> {
        let given = options::read(pointer, "options")?;
        let kv = match given.kv {
            LBK_KV_F16 => KvFormat::F16,
            LBK_KV_F32 => KvFormat::F32,
            LBK_KV_Q8 => KvFormat::Q8,
            other => {
                let message = format!("kv: {other} is none of LBK_KV_*");
                return Err(lbk_error::argument("kv", &message));
            }
        };
        Ok(SessionOptions {
            context: given.context,
            cache_tokens: given.cache_tokens,
            chunk: given.chunk,
            kv,
            memory_limit: limit(given.memory_limit),
        })
    }
}

/// Tokens to append to a sequence.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_work {
    /// The sequence; each may come once in a step.
    pub sequence: lbk_sequence,
    /// At least one token id.
    pub tokens: *const u32,
    /// How many.
    pub token_count: usize,
    /// Which logits to give.
    pub wanted: lbk_wanted,
    /// 0.
    pub reserved: i32,
}

/// Hears logits `[vocab]` after token `token` of work `work`; they live until it returns. The thread
/// that called `lbk_session_step` calls it. It must not throw or jump out; what it calls of the same
/// session fails with `LBK_BUSY`.
pub type lbk_logits_fn = Option<
    unsafe extern "C" fn(
        work: usize,
        token: usize,
        logits: *const f32,
        vocab: usize,
        user_data: *mut c_void,
    ),
>;

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_options_init(
    options: *mut lbk_session_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// Opens a session over a model that continues text. `options` may be NULL for the defaults. The
/// caller owns `*session`, which is written on success alone; the session keeps the model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_new(
    model: *const lbk_model,
    options: *const lbk_session_options,
    session: *mut *mut lbk_session,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(session, "session")?);
        let session = model.model.session(lbk_session_options::read(options)?)?;
        let control = session.control();
        let session = Exclusive::new(session);
        out.give(lbk_session { session, control, hooks: Hooks::default() });
        Ok(())
    })
}

/// The handle that cancels the session's calls and sets its budget. The caller owns `*control`, which
/// may outlive the session. Also while a call runs, from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_control(
    session: *const lbk_session,
    control: *mut *mut lbk_control,
) -> *mut lbk_error {
    guard(|| {
        let (session, out) = (arg::shared(session, "session")?, arg::out(control, "control")?);
        out.give(lbk_control::new(session.control.clone()));
        Ok(())
    })
}

/// How the budget fares: as it stood before the chunk in progress, or after the last one. `size` is
/// `sizeof *status`. Also while a call runs, from any thread; not for signal handlers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_get_status(
    session: *mut lbk_session,
    status: *mut lbk_status,
    size: usize,
) -> *mut lbk_error {
    guard(|| write_status(&arg::shared(session, "session")?.control, status, size))
}

/// Bytes that cache, buffers and scratch take now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_memory(
    session: *mut lbk_session,
    bytes: *mut u64,
) -> *mut lbk_error {
    with(session, |s| {
        arg::out(bytes, "bytes")?.set(s.memory_bytes() as u64);
        Ok(())
    })
}

/// A new, empty sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_add_sequence(
    session: *mut lbk_session,
    sequence: *mut lbk_sequence,
) -> *mut lbk_error {
    with(session, |s| {
        let out = arg::out(sequence, "sequence")?;
        out.set(s.sequence().to_bits());
        Ok(())
    })
}

/// A sequence with the same tokens; what is cached is shared until one of the two writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_fork(
    session: *mut lbk_session,
    sequence: lbk_sequence,
    fork: *mut lbk_sequence,
) -> *mut lbk_error {
    with(session, |s| {
        let out = arg::out(fork, "fork")?;
        out.set(s.fork(Sequence::from_bits(sequence))?.to_bits());
        Ok(())
    })
}

/// Ends a sequence and frees what only it used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_end_sequence(
    session: *mut lbk_session,
    sequence: lbk_sequence,
) -> *mut lbk_error {
    with(session, |s| Ok(s.free(Sequence::from_bits(sequence))?))
}

/// Tokens that a sequence has: those that were committed, also by a call that failed later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_position(
    session: *mut lbk_session,
    sequence: lbk_sequence,
    position: *mut usize,
) -> *mut lbk_error {
    with(session, |s| {
        let out = arg::out(position, "position")?;
        out.set(s.position(Sequence::from_bits(sequence))?);
        Ok(())
    })
}

/// Forgets all tokens of a sequence from `position` on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_rewind(
    session: *mut lbk_session,
    sequence: lbk_sequence,
    position: usize,
) -> *mut lbk_error {
    with(session, |s| Ok(s.rewind(Sequence::from_bits(sequence), position)?))
}

/// A sequence as bytes, for `lbk_session_restore` in any session over the same plan. The caller owns
/// `*snapshot`. `LBK_MEMORY` where there is none for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_snapshot(
    session: *mut lbk_session,
    sequence: lbk_sequence,
    snapshot: *mut *mut lbk_bytes,
) -> *mut lbk_error {
    with(session, |s| {
        let out = arg::out(snapshot, "snapshot")?;
        out.give(lbk_bytes::new(s.snapshot(Sequence::from_bits(sequence))?)?);
        Ok(())
    })
}

/// A new sequence from a snapshot, whose bytes need not be trusted: a checksum finds damage, and bytes that
/// somebody made up may hold any keys and values, and do no other harm. `LBK_INVALID` for bytes that are
/// none or damaged, or of another plan, format of keys and values, or longer than the context;
/// `LBK_CAPACITY` where the cache has no room for it, `LBK_MEMORY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_restore(
    session: *mut lbk_session,
    data: *const c_void,
    size: usize,
    sequence: *mut lbk_sequence,
) -> *mut lbk_error {
    with(session, |s| {
        let out = arg::out(sequence, "sequence")?;
        out.set(s.restore(arg::slice(data.cast(), size, "data")?)?.to_bits());
        Ok(())
    })
}

/// Appends tokens to sequences, all in one batch, and gives the logits that were asked for to
/// `on_logits`, in the order of the work; it may be NULL.
///
/// Work beyond the session's chunk is split. The tokens of a chunk commit together, before their
/// logits are given. `*committed` (NULL if it is not wanted) is how many tokens did, also where the
/// call fails: those before them stand, none after them left a trace, and `lbk_session_position`
/// tells how far each sequence came. What was spent is added to `usage` (NULL if it is not wanted).
///
/// Fails with `LBK_INVALID` for no work, a token outside the vocabulary, a sequence that comes twice;
/// with `LBK_CAPACITY` for a sequence beyond the context or the cache; with `LBK_MEMORY` and
/// `LBK_CANCELLED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_step(
    session: *mut lbk_session,
    work: *const lbk_work,
    work_count: usize,
    on_logits: lbk_logits_fn,
    user_data: *mut c_void,
    usage: *mut lbk_usage,
    committed: *mut usize,
) -> *mut lbk_error {
    guard(|| {
        let handle = arg::shared(session, "session")?;
        let committed = arg::maybe_out(committed, "committed")?;
        if let Some(out) = &committed {
            out.set(0);
        }
        let given = arg::slice(work, work_count, "work")?;
        if given.is_empty() {
            return Err(lbk_error::argument("work_count", "there is no work"));
        }
        let work = given.iter().map(to_work).collect::<Outcome<Vec<_>>>()?;
        let mut session = handle.session.enter("session")?;
        let mut own = Usage::default();
        let mut theirs = usage::enter(usage)?;
        let spent = theirs.as_mut().map_or(&mut own, |usage| &mut usage.total);
        let before = spent.tokens;
        let sink = |row, logits: &[f32]| {
            handle.hooks.trip();
            if let Some(on_logits) = on_logits {
                let LogitsRow { work, token } = row;
                // SAFETY: the app gave the two together; the logits live until it returns.
                unsafe { on_logits(work, token, logits.as_ptr(), logits.len(), user_data) }
            }
        };
        // Also after a panic what is committed is told.
        let result = catch_unwind(AssertUnwindSafe(|| session.step_onto(spent, &work, sink)));
        if let Some(out) = &committed {
            out.set(usize::try_from(spent.tokens - before).unwrap_or(usize::MAX));
        }
        Ok(result.unwrap_or_else(|panic| resume_unwind(panic))?)
    })
}

fn to_work(given: &lbk_work) -> Outcome<Work<'_>> {
    let wanted = match given.wanted {
        LBK_WANTED_LAST => Wanted::Last,
        LBK_WANTED_ALL => Wanted::All,
        LBK_WANTED_NONE => Wanted::None,
        other => {
            let message = format!("wanted: {other} is none of LBK_WANTED_*");
            return Err(lbk_error::argument("wanted", &message));
        }
    };
    let tokens = arg::slice(given.tokens, given.token_count, "tokens")?;
    Ok(Work { sequence: Sequence::from_bits(given.sequence), tokens, wanted })
}

/// Forces choices on the next step: `[sites, tokens]`, the tokens of all its work in turn; -1 leaves
/// a choice to the student. The step refuses choices of the wrong number, or that a site has not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_force_route(
    session: *mut lbk_session,
    choices: *const i32,
    count: usize,
) -> *mut lbk_error {
    with(session, |s| {
        s.force_route(copy(arg::slice(choices, count, "choices")?)?);
        Ok(())
    })
}

/// A copy of the caller's values, or an error where there is no memory for it.
pub(crate) fn copy<T: Copy>(values: &[T]) -> Outcome<Vec<T>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(values.len()).map_err(|e| lbk_error::memory(&e.to_string()))?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// The choices of the last step, `[sites, tokens]`, -1 where it did not come to one. They live until
/// the session is used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_route(
    session: *mut lbk_session,
    choices: *mut *const i32,
    count: *mut usize,
) -> *mut lbk_error {
    with(session, |s| {
        let (choices, count) = (arg::out(choices, "choices")?, arg::out(count, "count")?);
        choices.set(s.route().as_ptr());
        count.set(s.route().len());
        Ok(())
    })
}

/// Frees a session and its sequences; NULL is fine. No call of it may be in progress: cancel it and
/// wait for it first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_session_free(session: *mut lbk_session) {
    arg::free(session);
}

/// Runs `body` as the one call of a session.
fn with(session: *mut lbk_session, body: impl FnOnce(&mut Session) -> Outcome) -> *mut lbk_error {
    guard(|| {
        let mut session = arg::shared(session, "session")?.session.enter("session")?;
        body(&mut session)
    })
}
