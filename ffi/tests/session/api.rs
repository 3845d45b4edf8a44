//! What the tests ask of sessions, whichever way they come to them.

use std::ops::ControlFlow;
use std::path::Path;

use runtime::text::{Finish, GenerateOptions, Piece};
use runtime::{
    Budget, EngineOptions, ErrorKind, Limits, LogitsRow, Sequence, SessionOptions, Settings,
    Status, Usage, Work,
};

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    /// `None` for a fault of the library's own.
    pub kind: Option<ErrorKind>,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

/// A plan that was opened by an engine of its own.
pub trait ModelApi: Sized + Sync {
    type Session: SessionApi;

    fn open(plan: &Path, options: EngineOptions) -> Self;
    fn engine_memory(&self) -> usize;
    fn session(&self, options: &SessionOptions) -> Result<Self::Session>;
}

/// Hears the logits of a step.
pub type OnLogits<'a> = &'a mut dyn FnMut(LogitsRow, &[f32]);
/// Hears the pieces of a generation.
pub type OnPiece<'a> = &'a mut dyn FnMut(Piece<'_>) -> ControlFlow<()>;

/// What came of a step.
pub struct Stepped {
    pub result: Result<()>,
    pub committed: usize,
    pub usage: Usage,
}

pub trait SessionApi: Sized + Send {
    type Control: ControlApi;
    type Generation: GenerationApi<Session = Self>;

    fn control(&self) -> Self::Control;
    fn status(&mut self) -> Status;
    fn memory(&mut self) -> usize;
    fn add(&mut self) -> Sequence;
    fn fork(&mut self, sequence: Sequence) -> Result<Sequence>;
    fn end(&mut self, sequence: Sequence) -> Result<()>;
    fn position(&mut self, sequence: Sequence) -> Result<usize>;
    fn rewind(&mut self, sequence: Sequence, position: usize) -> Result<()>;
    fn snapshot(&mut self, sequence: Sequence) -> Result<Vec<u8>>;
    fn restore(&mut self, bytes: &[u8]) -> Result<Sequence>;
    fn force_route(&mut self, choices: &[i32]);
    fn route(&mut self) -> Vec<i32>;
    fn step(&mut self, work: &[Work<'_>], on_logits: OnLogits<'_>) -> Stepped;
    /// A step that fails in the library's hands once its first chunk is committed.
    fn faulty_step(&mut self, work: &[Work<'_>]) -> Stepped;
    fn generation(
        &mut self,
        sequence: Sequence,
        prompt: &[u32],
        samples: usize,
        options: &GenerateOptions,
    ) -> Result<Self::Generation>;
}

pub trait ControlApi: Send + Sync {
    fn cancel(&self);
    fn reset(&self);
    /// Whether it was set.
    fn set_budget(&self, budget: Budget, limits: Limits) -> bool;
    fn settings(&self) -> Settings;
}

/// A continuation as far as it is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Continued {
    pub sequence: Sequence,
    pub tokens: Vec<u32>,
    pub finish: Option<Finish>,
}

pub trait GenerationApi: Sized {
    type Session;

    fn run(&mut self, session: &mut Self::Session, on_piece: OnPiece<'_>) -> Result<()>;
    /// A run that fails in the library's hands at its first token.
    fn faulty_run(&mut self, session: &mut Self::Session) -> Result<()>;
    fn committed(&mut self) -> usize;
    fn progress(&mut self, sample: usize) -> Option<Continued>;
    /// Of the prompt, and of the continuations.
    fn usage(&mut self) -> [Usage; 2];
}
