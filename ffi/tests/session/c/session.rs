use std::ffi::c_void;

use limbeck_ffi::*;
use runtime::text::GenerateOptions;
use runtime::{LogitsRow, Sequence, Status, Wanted, Work};

use super::control::Control;
use super::generation::Generation;
use super::usage::{UsageHandle, unmet};
use super::{Handle, check, written};
use crate::api::{OnLogits, Result, SessionApi, Stepped};

pub struct Session(pub(super) Handle<lbk_session>);

unsafe extern "C" fn on_logits(
    work: usize,
    token: usize,
    logits: *const f32,
    vocab: usize,
    user_data: *mut c_void,
) {
    // SAFETY: `Session::run` gave this pointer; the logits live until this returns.
    let (sink, logits) = unsafe {
        (&mut *user_data.cast::<OnLogits<'_>>(), std::slice::from_raw_parts(logits, vocab))
    };
    sink(LogitsRow { work, token }, logits);
}

impl Session {
    /// A step, with or without a sink.
    fn run(&mut self, work: &[Work<'_>], sink: Option<OnLogits<'_>>) -> Stepped {
        let given: Vec<lbk_work> = work.iter().map(to_c).collect();
        let usage = UsageHandle::new();
        let mut committed = usize::MAX;
        let callback: lbk_logits_fn = if sink.is_some() { Some(on_logits) } else { None };
        let mut sink = sink;
        let data = sink.as_mut().map_or(std::ptr::null_mut(), |s| (&raw mut *s).cast::<c_void>());
        // SAFETY: handles are alive; work, sink and `committed` outlive the call.
        let error = unsafe {
            lbk_session_step(
                self.0.pointer,
                given.as_ptr(),
                given.len(),
                callback,
                data,
                usage.pointer(),
                &mut committed,
            )
        };
        Stepped { result: check(error), committed, usage: usage.read() }
    }

    fn made(&self, call: impl FnOnce(*mut lbk_sequence) -> *mut lbk_error) -> Result<Sequence> {
        written(0, call).map(Sequence::from_bits)
    }
}

fn to_c(work: &Work<'_>) -> lbk_work {
    lbk_work {
        sequence: work.sequence.to_bits(),
        tokens: work.tokens.as_ptr(),
        token_count: work.tokens.len(),
        wanted: match work.wanted {
            Wanted::Last => LBK_WANTED_LAST,
            Wanted::All => LBK_WANTED_ALL,
            Wanted::None => LBK_WANTED_NONE,
        },
        reserved: 0,
    }
}

// In each method the session is alive, arrays are given with their lengths, and results have places
// of their types.
impl SessionApi for Session {
    type Control = Control;
    type Generation = Generation;

    fn control(&self) -> Control {
        // SAFETY: as above.
        let control = Handle::new(lbk_control_free, |out| unsafe {
            lbk_session_control(self.0.pointer, out)
        });
        Control(control.expect("a control"))
    }

    fn status(&mut self) -> Status {
        let status = lbk_status { target: 0.0, price: 0.0, unmet: LBK_UNMET_NOT, reserved: 0 };
        // SAFETY: as above.
        let found = written(status, |out| unsafe {
            lbk_session_get_status(self.0.pointer, out, size_of::<lbk_status>())
        });
        let lbk_status { target, price, unmet: reason, .. } = found.expect("a status");
        Status { target, price: price as f32, unmet: unmet(reason) }
    }

    fn memory(&mut self) -> usize {
        // SAFETY: as above.
        let bytes = written(0, |out| unsafe { lbk_session_memory(self.0.pointer, out) });
        bytes.expect("bytes") as usize
    }

    fn add(&mut self) -> Sequence {
        // SAFETY: as above.
        let made = self.made(|out| unsafe { lbk_session_add_sequence(self.0.pointer, out) });
        made.expect("a sequence")
    }

    fn fork(&mut self, sequence: Sequence) -> Result<Sequence> {
        // SAFETY: as above.
        self.made(|out| unsafe { lbk_session_fork(self.0.pointer, sequence.to_bits(), out) })
    }

    fn end(&mut self, sequence: Sequence) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { lbk_session_end_sequence(self.0.pointer, sequence.to_bits()) })
    }

    fn position(&mut self, sequence: Sequence) -> Result<usize> {
        // SAFETY: as above.
        written(0, |out| unsafe { lbk_session_position(self.0.pointer, sequence.to_bits(), out) })
    }

    fn rewind(&mut self, sequence: Sequence, position: usize) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { lbk_session_rewind(self.0.pointer, sequence.to_bits(), position) })
    }

    fn snapshot(&mut self, sequence: Sequence) -> Result<Vec<u8>> {
        // SAFETY: as above.
        let bytes = Handle::new(lbk_bytes_free, |out| unsafe {
            lbk_session_snapshot(self.0.pointer, sequence.to_bits(), out)
        })?;
        // SAFETY: so many bytes live as long as the handle.
        Ok(unsafe {
            let size = lbk_bytes_size(bytes.pointer);
            std::slice::from_raw_parts(lbk_bytes_data(bytes.pointer).cast(), size).to_vec()
        })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<Sequence> {
        // SAFETY: as above.
        self.made(|out| unsafe {
            lbk_session_restore(self.0.pointer, bytes.as_ptr().cast(), bytes.len(), out)
        })
    }

    fn force_route(&mut self, choices: &[i32]) {
        // SAFETY: as above.
        let error =
            unsafe { lbk_session_force_route(self.0.pointer, choices.as_ptr(), choices.len()) };
        check(error).expect("a route");
    }

    fn route(&mut self) -> Vec<i32> {
        let (mut choices, mut count) = (std::ptr::null(), 0);
        // SAFETY: as above.
        check(unsafe { lbk_session_route(self.0.pointer, &mut choices, &mut count) })
            .expect("a route");
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: so many choices live until the session is used again.
        unsafe { std::slice::from_raw_parts(choices, count) }.to_vec()
    }

    fn step(&mut self, work: &[Work<'_>], on_logits: OnLogits<'_>) -> Stepped {
        self.run(work, Some(on_logits))
    }

    fn faulty_step(&mut self, work: &[Work<'_>]) -> Stepped {
        // SAFETY: the session is alive.
        unsafe { lbk_test_panic(self.0.pointer) };
        self.run(work, None)
    }

    fn generation(
        &mut self,
        sequence: Sequence,
        prompt: &[u32],
        samples: usize,
        options: &GenerateOptions,
    ) -> Result<Generation> {
        Generation::new(self, sequence, prompt, samples, options)
    }
}
