//! The embedding task: texts to vectors.

use std::time::Instant;

use limbeck_kernels::{KvType, Rows, Span};
use limbeck_plan::Manifest;

use crate::backend::{Bounds, Call, State};
use crate::control::Control;
use crate::controller::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::pace::{self, Pace};
use crate::route::Route;
use crate::text::shortlist::Pick;
use crate::usage::Usage;

/// Most rows computed in one run; more sequences are run in turn. The split changes no result.
const MAX_ROWS: usize = 2048;

/// One sequence of an encoder's call. Rows from `keys` on are padding: they are computed, and not
/// seen by others.
#[derive(Clone, Copy, Debug)]
pub struct EncoderInput<'a> {
    /// Token ids `[tokens]`, the valid ones first.
    pub ids: &'a [u32],
    /// Their positions `[tokens]`.
    pub positions: &'a [u32],
    /// How many are valid, at least 1.
    pub keys: usize,
}

/// Turns token sequences into hidden states and embeddings.
pub struct Encoder {
    model: Model,
    state: Box<dyn State>,
    entry: usize,
    rows: usize,
    pace: Pace,
    route: Route,
    cut: usize,
}

/// What an encoder gives for one sequence.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// `[tokens, hidden]`.
    pub last_hidden_state: &'a [f32],
    /// `[embedding]`.
    pub embedding: &'a [f32],
}

impl Encoder {
    /// An encoder over a plan whose task is embedding.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn new(model: &Model) -> Result<Encoder> {
        Encoder::with_limit(model, 0)
    }

    /// [`Encoder::new`] whose buffers and scratch may take so many bytes; 0 for no limit but the
    /// engine's.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn with_limit(model: &Model, memory_limit: usize) -> Result<Encoder> {
        let entry = model.entry(Manifest::EMBED_ENTRY)?;
        let rows = MAX_ROWS.max(model.manifest().context_length);
        let bounds = Bounds { tokens: rows, cache_tokens: 0, kv: KvType::F32 };
        let state = model.state(&bounds, &model.account("encoder", memory_limit))?;
        let pace = Pace::per_call(model.curve(), model.logger());
        let route = Route::new(model.plan().program().sites.len());
        Ok(Encoder { model: model.clone(), state, entry, rows, pace, route, cut: 0 })
    }

    /// The handle that cancels this encoder's calls and sets its budget, from any thread. A new
    /// encoder has the budget `full`.
    pub fn control(&self) -> Control {
        self.pace.control().clone()
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.pace.status()
    }

    /// Forces choices on the next call of [`Encoder::encode`]: `[sites, tokens]`, the tokens of
    /// all its inputs in turn; -1 leaves a choice to its gate.
    pub fn force_route(&mut self, choices: Vec<i32>) {
        self.route.force(choices);
    }

    /// The choices of the last call, `[sites, tokens]`.
    pub fn route(&self) -> &[i32] {
        self.route.made()
    }

    /// Tokenises texts: with the student's special tokens, cut at its context length.
    ///
    /// # Errors
    /// A plan without a tokenizer.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenize_cut(text)?.0)
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        self.model.manifest().context_length
    }

    /// How many texts of the last call of [`Encoder::embed`] were cut at the context length.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// The tokens of a text, and whether there are more than the context length holds.
    fn tokenize_cut(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        let most = self.context();
        let tokenizer = self.model.tokenizer()?;
        let mut ids = tokenizer.encode(text, true)?;
        let cut = ids.len() > most;
        if cut {
            // What the tokenizer puts at the end of every text.
            let closing = tokenizer.encode("", true)?.last().copied();
            let closing = closing.filter(|closing| ids.last() == Some(closing));
            ids.truncate(most);
            if let (Some(closing), Some(end)) = (closing, ids.last_mut()) {
                *end = closing;
            }
        }
        Ok((ids, cut))
    }

    /// Embeds texts: `[texts, embedding]`.
    ///
    /// # Errors
    /// A plan without a tokenizer, or a text that gives no token.
    pub fn embed(&mut self, texts: &[&str]) -> Result<(Vec<Vec<f32>>, Usage)> {
        let tokens = texts.iter().map(|text| self.tokenize_cut(text));
        let (ids, cut): (Vec<Vec<u32>>, Vec<bool>) =
            tokens.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        self.cut = cut.into_iter().filter(|cut| *cut).count();
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        let positions: Vec<u32> = (0..longest as u32).collect();
        let inputs: Vec<EncoderInput<'_>> = ids
            .iter()
            .map(|ids| EncoderInput { ids, positions: &positions[..ids.len()], keys: ids.len() })
            .collect();
        let mut embeddings = Vec::with_capacity(texts.len());
        let usage = self.encode(&inputs, |_, e| embeddings.push(e.embedding.to_vec()))?;
        Ok((embeddings, usage))
    }

    /// Encodes sequences, as many at a time as fit, and gives each to `sink` with its index.
    ///
    /// # Errors
    /// A sequence that is empty, too long, or has ids or positions out of range; cancellation.
    pub fn encode(
        &mut self,
        inputs: &[EncoderInput<'_>],
        mut sink: impl FnMut(usize, &Encoded<'_>),
    ) -> Result<Usage> {
        self.encode_to(inputs, &mut sink)
    }

    /// [`Encoder::encode`], of which there is one whatever the sink.
    fn encode_to(
        &mut self,
        inputs: &[EncoderInput<'_>],
        sink: &mut dyn FnMut(usize, &Encoded<'_>),
    ) -> Result<Usage> {
        let tokens = inputs.iter().map(|i| i.ids.len()).sum();
        self.route.begin(tokens)?;
        for (i, input) in inputs.iter().enumerate() {
            self.check(input).map_err(|e| e.at(format!("sequence {i}")))?;
        }
        pace::call(
            self,
            |encoder| &mut encoder.pace,
            tokens,
            |encoder| encoder.run_all(inputs, sink),
        )
    }

    fn run_all(
        &mut self,
        inputs: &[EncoderInput<'_>],
        sink: &mut dyn FnMut(usize, &Encoded<'_>),
    ) -> Result<Usage> {
        let start = Instant::now();
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        let mut first = 0;
        while first < inputs.len() {
            let mut rows = 0;
            let fits = |input: &&EncoderInput<'_>| {
                rows += input.ids.len();
                rows <= self.rows
            };
            let count = inputs[first..].iter().take_while(fits).count().max(1);
            self.run(&inputs[first..first + count], first, &mut usage, sink)?;
            first += count;
        }
        usage.ms = start.elapsed().as_secs_f64() * 1e3;
        usage.unmet = self.pace.status().unmet;
        Ok(usage)
    }

    fn check(&self, input: &EncoderInput<'_>) -> Result<()> {
        let manifest = self.model.manifest();
        let message = if input.ids.is_empty() || input.keys == 0 {
            "it has no tokens".into()
        } else if input.ids.len() != input.positions.len() || input.keys > input.ids.len() {
            "ids, positions and mask differ in length".into()
        } else if input.ids.len() > manifest.context_length {
            let most = manifest.context_length;
            format!("{} tokens are beyond the context of {most}", input.ids.len())
        } else if let Some(id) = input.ids.iter().find(|id| **id as usize >= manifest.vocab_size) {
            format!("token {id} is outside the vocabulary of {}", manifest.vocab_size)
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    fn run(
        &mut self,
        inputs: &[EncoderInput<'_>],
        first: usize,
        usage: &mut Usage,
        sink: &mut dyn FnMut(usize, &Encoded<'_>),
    ) -> Result<()> {
        let ids: Vec<i32> = inputs.iter().flat_map(|i| i.ids).map(|id| *id as i32).collect();
        let positions: Vec<i32> =
            inputs.iter().flat_map(|i| i.positions).map(|p| *p as i32).collect();
        let mut spans = Vec::with_capacity(inputs.len());
        let mut sequences = Vec::with_capacity(inputs.len());
        let mut row = 0;
        for input in inputs {
            let rows = input.ids.len();
            spans.push(Span { first_row: row, rows, sequence: None, start: 0, keys: input.keys });
            sequences.push(Rows { first: row, count: input.keys });
            row += rows;
        }
        // The rows are of sequences that run side by side, so the time of each is counted.
        let price = self.pace.next(ids.len(), ids.len())?;
        let call = Call {
            entry: self.entry,
            inputs: &[("input_ids", &ids), ("positions", &positions)],
            floats: &[],
            tensors: &[],
            sizes: &[],
            tokens: ids.len(),
            spans: &spans,
            sequences: &sequences,
            output_rows: &[],
            price,
            forced: self.route.part(ids.len()),
            control: None,
            pick: Pick::default(),
        };
        let spent = self.state.run(&call)?;
        self.pace.observe(spent);
        self.route.record(self.state.choices(), ids.len());
        let sites = &self.model.plan().program().sites;
        usage.count(ids.len(), spent, sites, self.state.choices());
        let output = |name: &str| {
            self.state.output(name).ok_or_else(|| {
                Error::new(ErrorKind::Plan, format!("the entry has no output {name:?}"))
            })
        };
        let (hidden, embedding) = (output("last_hidden_state")?, output("embedding")?);
        let embeddings = embedding.values.chunks_exact(embedding.cols);
        for ((i, span), embedding) in spans.iter().enumerate().zip(embeddings) {
            let values = span.first_row * hidden.cols..(span.first_row + span.rows) * hidden.cols;
            let last_hidden_state = hidden.values.get(values).unwrap_or_default();
            sink(first + i, &Encoded { last_hidden_state, embedding });
        }
        Ok(())
    }
}
