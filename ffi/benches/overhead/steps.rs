//! Decode steps of one plan, in Rust and through C, by turns.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::Instant;

use limbeck_ffi::*;
use runtime::{Engine, EngineOptions, Sequence, Session, SessionOptions, Usage, Wanted, Work};

/// A prompt; each step is the one after it, at the same position, so that all are as long.
const TOKENS: [u32; 8] = [5, 9, 2, 33, 17, 8, 41, 3];

/// Nanoseconds of steps: those of a place followed one another.
pub struct Steps {
    pub rust: Vec<f64>,
    pub c: Vec<f64>,
}

impl Steps {
    /// Takes so many steps each way.
    pub fn take(plan: &Path, threads: u32, count: usize) -> Steps {
        let (mut rust, mut c) = (InRust::new(plan, threads), InC::new(plan, threads));
        let mut steps = Steps { rust: Vec::new(), c: Vec::new() };
        for pair in 0..count {
            // Neither way always follows the other.
            for way in [pair % 2, (pair + 1) % 2] {
                if way == 0 {
                    steps.rust.push(rust.step());
                } else {
                    steps.c.push(c.step());
                }
            }
        }
        assert_eq!(rust.logits, c.logits);
        steps
    }

    /// Medians: a step in Rust, one through C, and what a step through C took for one of Rust beside it.
    pub fn medians(&self) -> [f64; 3] {
        let ratios = self.c.iter().zip(&self.rust).map(|(c, rust)| c / rust).collect();
        [self.rust.clone(), self.c.clone(), ratios].map(median)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct InRust {
    session: Session,
    sequence: Sequence,
    usage: Usage,
    logits: Vec<f32>,
}

impl InRust {
    fn new(plan: &Path, threads: u32) -> InRust {
        let options = EngineOptions { threads: threads as usize, ..Default::default() };
        let model = Engine::new(options).and_then(|e| e.open(plan)).expect("a plan");
        let mut session = model.session(SessionOptions::default()).expect("a session");
        let sequence = session.sequence();
        let work = [Work { sequence, tokens: &TOKENS, wanted: Wanted::None }];
        session.step(&work, |_, _| {}).expect("the prompt");
        InRust { session, sequence, usage: Usage::default(), logits: Vec::new() }
    }

    fn step(&mut self) -> f64 {
        let InRust { session, sequence, usage, logits } = self;
        session.rewind(*sequence, TOKENS.len()).expect("rewound");
        let work = [Work { sequence: *sequence, tokens: &TOKENS[..1], wanted: Wanted::Last }];
        let start = Instant::now();
        let result = session.step_onto(usage, &work, |_, row| hear(logits, row));
        let took = start.elapsed();
        result.expect("a step");
        took.as_nanos() as f64
    }
}

fn hear(logits: &mut Vec<f32>, row: &[f32]) {
    logits.clear();
    logits.extend_from_slice(row);
}

struct InC {
    engine: *mut lbk_engine,
    model: *mut lbk_model,
    session: *mut lbk_session,
    usage: *mut lbk_usage,
    sequence: lbk_sequence,
    logits: Vec<f32>,
}

fn ok(error: *mut lbk_error) {
    assert!(error.is_null());
}

unsafe extern "C" fn on_logits(
    _work: usize,
    _token: usize,
    logits: *const f32,
    vocab: usize,
    user_data: *mut c_void,
) {
    // SAFETY: `InC::step` gave this pointer; the logits live until this returns.
    unsafe { hear(&mut *user_data.cast(), std::slice::from_raw_parts(logits, vocab)) }
}

impl InC {
    fn new(plan: &Path, threads: u32) -> InC {
        let path = CString::new(plan.to_str().expect("a path")).expect("a path");
        let mut found = InC {
            engine: null_mut(),
            model: null_mut(),
            session: null_mut(),
            usage: null_mut(),
            sequence: 0,
            logits: Vec::new(),
        };
        let options = lbk_engine_options { threads, ..lbk_engine_options::default() };
        // SAFETY: places for handles, options of their size, a text that ends in a 0 byte, and handles
        // that are alive.
        unsafe {
            ok(lbk_engine_new(LBK_ABI_VERSION, &options, &mut found.engine));
            ok(lbk_model_open(found.engine, path.as_ptr(), &mut found.model));
            ok(lbk_session_new(found.model, null(), &mut found.session));
            ok(lbk_usage_new(&mut found.usage));
            ok(lbk_session_add_sequence(found.session, &mut found.sequence));
            let work = found.work(TOKENS.len(), LBK_WANTED_NONE);
            let (session, usage) = (found.session, found.usage);
            ok(lbk_session_step(session, &work, 1, None, null_mut(), usage, null_mut()));
        }
        found
    }

    fn work(&self, token_count: usize, wanted: lbk_wanted) -> lbk_work {
        let (sequence, tokens) = (self.sequence, TOKENS.as_ptr());
        lbk_work { sequence, tokens, token_count, wanted, reserved: 0 }
    }

    fn step(&mut self) -> f64 {
        let work = self.work(1, LBK_WANTED_LAST);
        let heard = (&raw mut self.logits).cast();
        let mut committed = 0;
        // SAFETY: the handles are alive; work, logits and `committed` outlive the call.
        unsafe {
            ok(lbk_session_rewind(self.session, self.sequence, TOKENS.len()));
            let start = Instant::now();
            let (session, usage) = (self.session, self.usage);
            let error =
                lbk_session_step(session, &work, 1, Some(on_logits), heard, usage, &mut committed);
            let took = start.elapsed();
            ok(error);
            assert_eq!(committed, 1);
            took.as_nanos() as f64
        }
    }
}

impl Drop for InC {
    fn drop(&mut self) {
        // SAFETY: each came from the library, and goes once.
        unsafe {
            lbk_usage_free(self.usage);
            lbk_session_free(self.session);
            lbk_model_free(self.model);
            lbk_engine_free(self.engine);
        }
    }
}
