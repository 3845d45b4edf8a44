//! The way of Rust.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use runtime::text::{GenerateOptions, Generator};
use runtime::{
    Budget, Control, Engine, EngineOptions, Error, Limits, Sequence, Session, SessionOptions,
    Settings, Status, Usage, Work,
};

use crate::api::{
    Continued, ControlApi, Failure, GenerationApi, ModelApi, OnLogits, OnPiece, Result, SessionApi,
    Stepped,
};

pub struct Model(Engine, runtime::Model);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { kind: Some(error.kind()), message: error.to_string() }
    }
}

/// What comes of a call whose sink panics on purpose.
fn caught(call: impl FnOnce() -> runtime::Result<()>) -> Result<()> {
    let fault = || Failure { kind: None, message: "on purpose".to_owned() };
    Ok(catch_unwind(AssertUnwindSafe(call)).map_err(|_| fault())??)
}

impl ModelApi for Model {
    type Session = Session;

    fn open(plan: &Path, options: EngineOptions) -> Model {
        let engine = Engine::new(options).expect("an engine");
        let model = engine.open(plan).expect("a plan");
        Model(engine, model)
    }

    fn engine_memory(&self) -> usize {
        self.0.memory_bytes()
    }

    fn session(&self, options: &SessionOptions) -> Result<Session> {
        Ok(self.1.session(*options)?)
    }
}

impl SessionApi for Session {
    type Control = Control;
    type Generation = Generator;

    fn control(&self) -> Control {
        Session::control(self)
    }

    fn status(&mut self) -> Status {
        Session::status(self)
    }

    fn memory(&mut self) -> usize {
        self.memory_bytes()
    }

    fn add(&mut self) -> Sequence {
        self.sequence()
    }

    fn fork(&mut self, sequence: Sequence) -> Result<Sequence> {
        Ok(Session::fork(self, sequence)?)
    }

    fn end(&mut self, sequence: Sequence) -> Result<()> {
        Ok(self.free(sequence)?)
    }

    fn position(&mut self, sequence: Sequence) -> Result<usize> {
        Ok(Session::position(self, sequence)?)
    }

    fn rewind(&mut self, sequence: Sequence, position: usize) -> Result<()> {
        Ok(Session::rewind(self, sequence, position)?)
    }

    fn snapshot(&mut self, sequence: Sequence) -> Result<Vec<u8>> {
        Ok(Session::snapshot(self, sequence)?)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<Sequence> {
        Ok(Session::restore(self, bytes)?)
    }

    fn force_route(&mut self, choices: &[i32]) {
        Session::force_route(self, choices.to_vec());
    }

    fn route(&mut self) -> Vec<i32> {
        Session::route(self).to_vec()
    }

    fn step(&mut self, work: &[Work<'_>], on_logits: OnLogits<'_>) -> Stepped {
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        let result = self.step_onto(&mut usage, work, on_logits).map_err(Failure::from);
        Stepped { result, committed: usage.tokens as usize, usage }
    }

    fn faulty_step(&mut self, work: &[Work<'_>]) -> Stepped {
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        let result = caught(|| self.step_onto(&mut usage, work, |_, _| panic!("on purpose")));
        Stepped { result, committed: usage.tokens as usize, usage }
    }

    fn generation(
        &mut self,
        sequence: Sequence,
        prompt: &[u32],
        samples: usize,
        options: &GenerateOptions,
    ) -> Result<Generator> {
        Ok(Generator::new(self, sequence, prompt, samples, options)?)
    }
}

impl ControlApi for Control {
    fn cancel(&self) {
        Control::cancel(self);
    }

    fn reset(&self) {
        Control::reset(self);
    }

    fn set_budget(&self, budget: Budget, limits: Limits) -> bool {
        Control::set_budget(self, budget, limits).is_ok()
    }

    fn settings(&self) -> Settings {
        Control::settings(self)
    }
}

impl GenerationApi for Generator {
    type Session = Session;

    fn run(&mut self, session: &mut Session, on_piece: OnPiece<'_>) -> Result<()> {
        Ok(Generator::run(self, session, on_piece)?)
    }

    fn faulty_run(&mut self, session: &mut Session) -> Result<()> {
        caught(|| Generator::run(self, session, |_| -> ControlFlow<()> { panic!("on purpose") }))
    }

    fn committed(&mut self) -> usize {
        Generator::committed(self)
    }

    fn progress(&mut self, sample: usize) -> Option<Continued> {
        let found = Generator::progress(self, sample)?;
        let (sequence, tokens, finish) = (found.sequence, found.tokens.to_vec(), found.finish);
        Some(Continued { sequence, tokens, finish })
    }

    fn usage(&mut self) -> [Usage; 2] {
        [self.prefill_usage().clone(), self.decode_usage().clone()]
    }
}
