use runtime::{Control, Encoder};

use crate::arg;
use crate::bytes::lbk_text;
use crate::control::{lbk_control, lbk_status, write_status};
use crate::engine::limit;
use crate::error::lbk_error;
use crate::guard::{Exclusive, Outcome, guard, guard_value};
use crate::model::lbk_model;
use crate::options::{self, options};
use crate::usage::{self, lbk_usage};

/// Turns texts into vectors. One call at a time may use it, from any thread: `LBK_BUSY` otherwise.
pub struct lbk_encoder {
    encoder: Exclusive<Encoder>,
    control: Control,
    size: usize,
}

/// Options of an encoder, from `lbk_encoder_options_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lbk_encoder_options {
    /// The size of this struct.
    pub struct_size: usize,
    /// As that of `lbk_session_options`.
    pub memory_limit: u64,
}

options!(lbk_encoder_options: size_of::<usize>() + 8);

impl Default for lbk_encoder_options {
    fn default() -> lbk_encoder_options {
        lbk_encoder_options { struct_size: size_of::<lbk_encoder_options>(), memory_limit: 0 }
    }
}

/// Fills options with the defaults. `struct_size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_options_init(
    options: *mut lbk_encoder_options,
    struct_size: usize,
) {
    guard_value((), || options::init(options, struct_size));
}

/// An encoder over a model that makes embeddings. `options` may be NULL for the defaults. The caller
/// owns `*encoder`, which keeps the model. `LBK_UNSUPPORTED` for a model of another task.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_new(
    model: *const lbk_model,
    options: *const lbk_encoder_options,
    encoder: *mut *mut lbk_encoder,
) -> *mut lbk_error {
    guard(|| {
        let (model, out) = (arg::shared(model, "model")?, arg::out(encoder, "encoder")?);
        let options = options::read(options, "options")?;
        let encoder = Encoder::with_limit(&model.model, limit(options.memory_limit))?;
        let (control, size) = (encoder.control(), model.model.manifest().embedding_size);
        out.give(lbk_encoder { encoder: Exclusive::new(encoder), control, size });
        Ok(())
    })
}

/// The handle that cancels the encoder's calls and sets its budget, as `lbk_session_control`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_control(
    encoder: *const lbk_encoder,
    control: *mut *mut lbk_control,
) -> *mut lbk_error {
    guard(|| {
        let (encoder, out) = (arg::shared(encoder, "encoder")?, arg::out(control, "control")?);
        out.give(lbk_control::new(encoder.control.clone()));
        Ok(())
    })
}

/// How the budget fares, as `lbk_session_get_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_get_status(
    encoder: *mut lbk_encoder,
    status: *mut lbk_status,
    size: usize,
) -> *mut lbk_error {
    guard(|| write_status(&arg::shared(encoder, "encoder")?.control, status, size))
}

/// Embeds texts: fills `embeddings` `[count, embedding]`, `capacity` floats being there. Texts are cut
/// at the context length; `*cut` (NULL if it is not wanted) is how many were. What was spent is added
/// to `usage` (NULL if it is not wanted). On failure `embeddings` is as it was.
///
/// `LBK_INVALID` where `capacity` is less than `count` times the model's `embedding_size`, or for a
/// text that gives no token; `LBK_MEMORY`, `LBK_CANCELLED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_embed(
    encoder: *mut lbk_encoder,
    texts: *const lbk_text,
    count: usize,
    embeddings: *mut f32,
    capacity: usize,
    usage: *mut lbk_usage,
    cut: *mut usize,
) -> *mut lbk_error {
    guard(|| {
        let handle = arg::shared(encoder, "encoder")?;
        let texts = arg::slice(texts, count, "texts")?;
        let cut = arg::maybe_out(cut, "cut")?;
        let out = arg::places(embeddings, capacity, "embeddings")?;
        let size = handle.size;
        if count.checked_mul(size).is_none_or(|needed| needed > capacity) {
            let message = format!("capacity: {capacity} floats do not hold {count} times {size}");
            return Err(lbk_error::argument("capacity", &message));
        }
        let texts = texts.iter().map(|t| arg::text(t.data, t.length, "texts"));
        let texts = texts.collect::<Outcome<Vec<&str>>>()?;
        let usage = usage::enter(usage)?;
        let mut encoder = handle.encoder.enter("encoder")?;
        let (found, spent) = encoder.embed(&texts)?;
        usage::spend(usage, &spent);
        for (place, value) in out.iter_mut().zip(found.iter().flatten()) {
            place.write(*value);
        }
        if let Some(cut) = cut {
            cut.set(encoder.cut());
        }
        Ok(())
    })
}

/// Frees an encoder; NULL is fine. No call of it may be in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lbk_encoder_free(encoder: *mut lbk_encoder) {
    arg::free(encoder);
}
