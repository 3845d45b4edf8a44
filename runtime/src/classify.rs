//! The classification task: images to logits.

use std::time::Instant;

use limbeck_kernels::{KvType, Rows, Span};
use limbeck_plan::{Entry, Manifest, Op, OperandKind, Symbol};

use crate::backend::{Bounds, Call, State};
use crate::control::Control;
use crate::controller::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::pace::{self, Pace};
use crate::route::Route;
use crate::text::shortlist::Pick;
use crate::usage::Usage;

/// Most rows computed in one run; more images are run in turn. The split changes no result.
const MAX_ROWS: usize = 2048;
/// Most elements of the widest value in one run, where images are rows of pixels.
const MAX_ELEMENTS: usize = 4 << 20;

/// The input of a classifier's entry.
pub(crate) const PIXELS: &str = "pixel_values";

/// Gives each image a logit for each class. A budget holds for a call; choices are made for each
/// token of an image, its class token first. A convolutional network's images are one token each.
pub struct Classifier {
    model: Model,
    state: Box<dyn State>,
    entry: usize,
    image: [usize; 3],
    /// Tokens and values of an image.
    tokens: usize,
    values: usize,
    classes: usize,
    /// Images computed in one run.
    together: usize,
    pace: Pace,
    route: Route,
}

/// How a plan's entry takes images.
pub(crate) struct Interface {
    /// Channels, height and width.
    pub image: [usize; 3],
    /// Tokens of an image.
    pub tokens: usize,
    classes: usize,
}

/// The interface of an entry that takes images at one place and gives logits.
pub(crate) fn interface(entry: &Entry) -> Option<Interface> {
    let mut images = entry.steps().filter_map(|step| match &step.op {
        Op::Patches(p) => Some(p.rows().map(|rows| ([p.channels, p.height, p.width], rows))),
        Op::Pixels(p) => Some(Some(([p.channels, p.height, p.width], 1))),
        _ => None,
    });
    let (image, tokens) = images.next()??;
    let (_, logits) = entry.operands_of(OperandKind::Output).find(|(_, o)| o.name == "logits")?;
    let classes = usize::try_from(logits.fact.shape.get(1)?.as_const()?).ok()?;
    images.next().is_none().then_some(Interface { image, tokens, classes })
}

/// Elements of an image's widest value where it is rows of pixels, at least 1.
fn widest(entry: &Entry) -> usize {
    let values = entry.operands.iter().filter_map(|o| match o.fact.shape.as_slice() {
        [rows, cols] => rows.factor_of(Symbol::SEQUENCES)?.checked_mul(cols.as_const()?),
        _ => None,
    });
    values.max().map_or(1, |n| n.clamp(1, u64::from(u32::MAX)) as usize)
}

impl Classifier {
    /// A classifier over a plan whose task is classification.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn new(model: &Model) -> Result<Classifier> {
        Classifier::with_limit(model, 0)
    }

    /// [`Classifier::new`] whose buffers and scratch may take so many bytes; 0 for no limit but the
    /// engine's.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn with_limit(model: &Model, memory_limit: usize) -> Result<Classifier> {
        let index = model.entry(Manifest::CLASSIFY_ENTRY)?;
        let entry = model.plan().program().entries.get(index);
        let found = entry.and_then(|entry| Some((interface(entry)?, widest(entry))));
        let malformed = || Error::new(ErrorKind::Plan, "the plan does not say how it takes images");
        let (Interface { image, tokens, classes }, widest) = found.ok_or_else(malformed)?;
        // In range, or the plan would not have been read.
        let values = image.iter().product();
        let together = (MAX_ROWS / tokens.max(1)).min(MAX_ELEMENTS / widest).max(1);
        let bounds = Bounds { tokens: together * tokens, cache_tokens: 0, kv: KvType::F32 };
        let state = model.state(&bounds, &model.account("classifier", memory_limit))?;
        let pace = Pace::per_call(model.curve(), model.logger());
        let route = Route::new(model.plan().program().sites.len());
        let (model, entry) = (model.clone(), index);
        Ok(Classifier {
            model,
            state,
            entry,
            image,
            tokens,
            values,
            classes,
            together,
            pace,
            route,
        })
    }

    /// The handle that cancels this classifier's calls and sets its budget, from any thread. A new
    /// classifier has the budget `full`.
    pub fn control(&self) -> Control {
        self.pace.control().clone()
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.pace.status()
    }

    /// Channels, height and width of an image.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// Tokens of an image, its class token included; 1 where it is rows of pixels.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Classes, each with a logit.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Forces choices on the next call: `[sites, tokens]`, the tokens of all its images in turn; -1
    /// leaves a choice to its gate.
    pub fn force_route(&mut self, choices: Vec<i32>) {
        self.route.force(choices);
    }

    /// The choices of the last call, `[sites, tokens]`.
    pub fn route(&self) -> &[i32] {
        self.route.made()
    }

    /// Classifies images `[images, channels, height, width]`, prepared as the student wants them;
    /// gives logits `[images, classes]`.
    ///
    /// # Errors
    /// Values that are not whole images, or not finite; cancellation.
    pub fn classify(&mut self, pixels: &[f32]) -> Result<(Vec<f32>, Usage)> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        let rows = pixels.len() / self.values * self.tokens;
        self.route.begin(rows)?;
        if pixels.is_empty() || !pixels.len().is_multiple_of(self.values) {
            let [c, h, w] = self.image();
            return invalid(format!("{} values are not images of {c} x {h} x {w}", pixels.len()));
        }
        if let Some(at) = pixels.iter().position(|v| !v.is_finite()) {
            return invalid(format!("value {at} of the images is {}", pixels[at]));
        }
        pace::call(
            self,
            |classifier| &mut classifier.pace,
            rows,
            |classifier| classifier.run_all(pixels),
        )
    }

    fn run_all(&mut self, pixels: &[f32]) -> Result<(Vec<f32>, Usage)> {
        let start = Instant::now();
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        let mut logits = Vec::new();
        for images in pixels.chunks(self.together * self.values) {
            self.run(images, &mut usage, &mut logits)?;
        }
        usage.ms = start.elapsed().as_secs_f64() * 1e3;
        usage.unmet = self.pace.status().unmet;
        Ok((logits, usage))
    }

    fn run(&mut self, pixels: &[f32], usage: &mut Usage, logits: &mut Vec<f32>) -> Result<()> {
        let (images, count) = (pixels.len() / self.values, self.tokens);
        let first = |i: usize| i * count;
        let span =
            |i| Span { first_row: first(i), rows: count, sequence: None, start: 0, keys: count };
        let spans: Vec<Span> = (0..images).map(span).collect();
        let sequences: Vec<Rows> = (0..images).map(|i| Rows { first: first(i), count }).collect();
        let rows = images * count;
        let positions: Vec<i32> = (0..rows).map(|row| (row % count) as i32).collect();
        // The images run side by side, so the time of each row is counted.
        let price = self.pace.next(rows, rows)?;
        let call = Call {
            entry: self.entry,
            inputs: &[("positions", &positions)],
            floats: &[(PIXELS, pixels)],
            tensors: &[],
            sizes: &[],
            tokens: rows,
            spans: &spans,
            sequences: &sequences,
            output_rows: &[],
            price,
            forced: self.route.part(rows),
            control: None,
            pick: Pick::default(),
        };
        let spent = self.state.run(&call)?;
        self.pace.observe(spent);
        self.route.record(self.state.choices(), rows);
        usage.count(rows, spent, &self.model.plan().program().sites, self.state.choices());
        let found = self.state.output("logits");
        let found = found
            .ok_or_else(|| Error::new(ErrorKind::Plan, "the entry has no output \"logits\""))?;
        logits.extend_from_slice(found.values);
        Ok(())
    }
}
