//! The text task.

mod bpe;
mod continuation;
#[cfg(test)]
mod fixtures;
mod generate;
mod sampler;
pub(crate) mod shortlist;
mod stop;
mod stream;
mod template;
mod template_guard;
mod tokenizer;
mod tokenizer_file;

pub use generate::{
    Continuation, Finish, GenerateOptions, Generation, Generator, Piece, Progress, generate,
};
pub use sampler::{Sampled, Sampler, SamplerOptions, log_probabilities};
pub use stop::StopMatcher;
pub use stream::Detokenizer;
pub use template::{ChatMessage, ChatOptions, ChatTemplate};
pub use tokenizer::Tokenizer;
