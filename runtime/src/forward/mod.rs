//! The task of named tensors: what goes in and comes out of a plan, whatever its student does.
//!
//! Text decoders take `input_ids` `[tokens]` and give `logits` `[tokens, vocab]`. Encoders take
//! `input_ids` and `attention_mask` `[batch, tokens]` and give `last_hidden_state`
//! `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`. Classifiers take `pixel_values`
//! `[batch, channels, height, width]` and give `logits` `[batch, classes]`. Plans of tensors, and students that
//! denoise, have names and shapes of their own.
//!
//! Where a plan has sites, `choices` `[sites, tokens]` (`[sites, batch * tokens]` of an encoder or a
//! classifier, an image's class token being its first; -1 for padding) is given too, and forces them
//! where it is an input; -1 leaves a choice to its gate.

mod interface;
mod padded;
mod tensor;
mod tensors;

use limbeck_plan::Task;

use crate::classify::{Classifier, PIXELS};
use crate::control::Control;
use crate::controller::Status;
use crate::embed::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::session::{Session, SessionOptions, Wanted, Work};
use crate::usage::Usage;
use interface::CHOICES;
use padded::Padded;
use tensors::Tensors;

pub use interface::Interface;
pub(crate) use tensors::EntryRunner;

pub use tensor::{Tensor, TensorData, TensorValues, TensorView};

/// Runs a plan on named tensors, each call by itself.
pub struct Forward {
    interface: Interface,
    sites: usize,
    task: Runner,
}

/// What runs them, by the plan's task.
enum Runner {
    Text(Session),
    Embed(Encoder),
    Classify(Classifier),
    Tensors(Tensors),
}

impl Forward {
    /// For a plan of any task. Of the options, text students need all, the others the limit on memory.
    ///
    /// # Errors
    /// Options out of range.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Forward> {
        let task = match model.manifest().task {
            Task::Text => Runner::Text(model.session(options)?),
            Task::Embed => Runner::Embed(Encoder::with_limit(model, options.memory_limit)?),
            Task::Classify => {
                Runner::Classify(Classifier::with_limit(model, options.memory_limit)?)
            }
            Task::Tensors | Task::Diffuse => {
                let entry = Interface::of(model.plan()).entry;
                Runner::Tensors(Tensors::new(model, entry, options.memory_limit)?)
            }
        };
        let sites = model.plan().program().sites.len();
        Ok(Forward { interface: Interface::of(model.plan()), sites, task })
    }

    /// The handle that cancels calls and sets their budget, from any thread.
    pub fn control(&self) -> Control {
        match &self.task {
            Runner::Text(session) => session.control(),
            Runner::Embed(encoder) => encoder.control(),
            Runner::Classify(classifier) => classifier.control(),
            Runner::Tensors(tensors) => tensors.control(),
        }
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        match &self.task {
            Runner::Text(session) => session.status(),
            Runner::Embed(encoder) => encoder.status(),
            Runner::Classify(classifier) => classifier.status(),
            Runner::Tensors(tensors) => tensors.status(),
        }
    }

    /// The names and shapes of what it takes and gives.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Runs the plan once.
    ///
    /// # Errors
    /// A tensor that is missing, unknown, given twice, or not of its shape, type or range; those of
    /// the task.
    pub fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<(Vec<Tensor>, Usage)> {
        let inputs = Inputs { given: inputs, sites: self.sites };
        inputs.check(&self.interface)?;
        let (mut outputs, route, usage) = match &mut self.task {
            Runner::Text(session) => text(session, &inputs)?,
            Runner::Embed(encoder) => encode(encoder, &inputs)?,
            Runner::Classify(classifier) => classify(classifier, &inputs)?,
            Runner::Tensors(tensors) => return tensors.run(&inputs),
        };
        if let Some(tokens) = route.len().checked_div(self.sites) {
            let (shape, values) = (vec![self.sites, tokens], TensorValues::I32(route));
            outputs.push(Tensor { name: CHOICES.into(), shape, values });
        }
        Ok((outputs, usage))
    }
}

/// Outputs, the choices made, and what it took.
type Ran = (Vec<Tensor>, Vec<i32>, Usage);

/// The tensors of a call.
struct Inputs<'a> {
    given: &'a [TensorView<'a>],
    sites: usize,
}

impl<'a> Inputs<'a> {
    fn check(&self, interface: &Interface) -> Result<()> {
        for (i, tensor) in self.given.iter().enumerate() {
            if !interface.inputs.iter().any(|(name, _)| *name == tensor.name) {
                let (entry, known) = (interface.entry, interface.listed_inputs());
                let message = format!("entry {entry:?} takes no {:?}, only {known}", tensor.name);
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            if self.given.iter().take(i).any(|other| other.name == tensor.name) {
                return Err(tensor.wrong("it is given twice"));
            }
            tensor.check()?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&TensorView<'a>> {
        self.given.iter().find(|tensor| tensor.name == name)
    }

    fn required(&self, name: &str) -> Result<&TensorView<'a>> {
        self.find(name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("the inputs have no tensor {name:?}"))
        })
    }

    /// The choices to force, `[sites, tokens]`.
    fn route(&self, tokens: usize) -> Result<Option<Vec<i32>>> {
        let Some(given) = self.find(CHOICES) else { return Ok(None) };
        let shape = [self.sites, tokens];
        if given.shape != shape {
            let found = given.shape;
            return Err(given.wrong(format!("its shape {found:?} is not {shape:?}")));
        }
        let choice =
            |v: i64| i32::try_from(v).map_err(|_| given.wrong(format!("{v} is not a choice")));
        given.as_integers()?.into_iter().map(choice).collect::<Result<_>>().map(Some)
    }
}

fn text(session: &mut Session, inputs: &Inputs<'_>) -> Result<Ran> {
    let given = inputs.required("input_ids")?;
    let tokens = match *given.shape {
        [n] | [1, n] => n,
        _ => return Err(given.wrong(format!("its shape {:?} is not [tokens]", given.shape))),
    };
    let ids = given.as_ids()?;
    let vocab = session.model().manifest().vocab_size;
    if let Some(route) = inputs.route(tokens)? {
        session.force_route(route);
    }
    let sequence = session.sequence();
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens: &ids, wanted: Wanted::All }];
    let result = session.step(&work, |_, row| logits.extend_from_slice(row));
    session.free(sequence)?;
    let outputs = vec![Tensor::floats("logits", vec![tokens, vocab], logits)];
    Ok((outputs, session.route().to_vec(), result?))
}

fn classify(classifier: &mut Classifier, inputs: &Inputs<'_>) -> Result<Ran> {
    let given = inputs.required(PIXELS)?;
    let pixels = given.as_floats()?;
    let [c, h, w] = classifier.image();
    let batch = match *given.shape {
        [batch, ref image @ ..] if *image == [c, h, w] => batch,
        _ => {
            let shape = given.shape;
            return Err(given.wrong(format!("its shape {shape:?} is not [batch, {c}, {h}, {w}]")));
        }
    };
    if batch == 0 {
        return Err(given.wrong("it holds no image"));
    }
    if let Some(route) = inputs.route(batch.saturating_mul(classifier.tokens()))? {
        classifier.force_route(route);
    }
    let (logits, usage) =
        classifier.classify(pixels).map_err(|e| e.at(format!("tensor {PIXELS:?}")))?;
    let outputs = vec![Tensor::floats("logits", vec![batch, classifier.classes()], logits)];
    Ok((outputs, classifier.route().to_vec(), usage))
}

fn encode(encoder: &mut Encoder, inputs: &Inputs<'_>) -> Result<Ran> {
    let given = inputs.required("input_ids")?;
    let padded = Padded::new(given, inputs.find("attention_mask"))?;
    if let Some(route) = inputs.route(padded.total())? {
        encoder.force_route(padded.sorted_route(&route));
    }
    let (outputs, usage) = padded.encode(encoder)?;
    Ok((outputs, padded.callers_route(encoder.route()), usage))
}
