//! What a call tells the device, as words of one buffer: ids, numbers, which rows belong where, the angles of
//! rotations, the price, a sampler's temperature, forced choices and block tables.

use limbeck_kernels::{BlockTable, KV_BLOCK, Span};
use limbeck_plan::{Dim, Site, Symbol};

use super::DeviceEntry;
use super::sites::charge_words;
use crate::backend::sizes::Sizes;
use crate::backend::slots::Unit;
use crate::backend::{Call, given};
use crate::error::{Error, ErrorKind, Result};

/// Words of a row that attention reads; see `shaders/prepare.wgsl`.
const ROW_WORDS: usize = 4;

/// An input of an entry that a call gives.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// Ids, one for each token, below a bound.
    Ids { name: String, below: usize },
    /// So many numbers for each sequence.
    Numbers { name: String, cols: usize },
    /// A tensor, which goes where it lives.
    Tensor,
}

/// Cosines and sines that some attention turns heads by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turns {
    /// The weight that the frequencies come from.
    pub weight: usize,
    pub inv_freq: Vec<f32>,
    pub factor: f32,
}

/// Where things lie among the words of a call, in words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CallLayout {
    /// By input.
    pub inputs: Vec<usize>,
    /// [`ROW_WORDS`] for each token.
    pub rows: usize,
    /// First row and count of each sequence.
    pub sequences: usize,
    /// Rows that outputs are asked for.
    pub outputs: usize,
    /// That of the masses of logits that are picked.
    pub temperature: usize,
    /// By [`Turns`]: pairs of cosine and sine, for each token.
    pub turns: Vec<usize>,
    /// By site: what its choices cost, where it chooses.
    pub charges: Vec<usize>,
    /// Forced choices `[sites, tokens]`, all ones where one is free.
    pub forced: usize,
    /// Block tables, to the end.
    tables: usize,
}

impl CallLayout {
    /// Of a call of these sizes.
    pub fn new(entry: &DeviceEntry, sites: &[Site], sizes: &Sizes) -> CallLayout {
        let (tokens, sequences) = (sizes.units(Unit::Tokens), sizes.units(Unit::Sequences));
        let mut next = 0usize;
        let mut take = |words: usize| {
            let start = next;
            next = next.saturating_add(words);
            start
        };
        let inputs = entry.inputs.iter().map(|given| match given {
            Given::Ids { .. } => take(tokens),
            Given::Numbers { cols, .. } => take(sequences.saturating_mul(*cols)),
            Given::Tensor => 0,
        });
        let inputs = inputs.collect();
        let rows = take(tokens.saturating_mul(ROW_WORDS));
        let named = take(sequences.saturating_mul(2));
        let outputs = take(sizes.units(Unit::Outputs));
        let temperature = take(1);
        let turns = entry.turns.iter().map(|t| take(tokens.saturating_mul(2 * t.inv_freq.len())));
        let turns = turns.collect();
        let charges = entry.told.choosers.iter().zip(sites);
        let charges = charges.map(|(chooser, site)| take(charge_words(*chooser, site))).collect();
        let forced = take(sites.len().saturating_mul(tokens));
        let tables = take(0);
        CallLayout {
            inputs,
            rows,
            sequences: named,
            outputs,
            temperature,
            turns,
            charges,
            forced,
            tables,
        }
    }

    /// Fills `words` with what a call tells. `table` has the sequences' blocks, where attention keeps keys
    /// and values; otherwise each sequence has blocks of its own for the call.
    ///
    /// # Errors
    /// Inputs that are missing or out of range, spans that overlap or reach past the rows.
    pub fn fill(
        &self,
        entry: &DeviceEntry,
        call: &Call<'_>,
        table: Option<&BlockTable>,
        words: &mut Vec<u32>,
    ) -> Result<()> {
        words.clear();
        words.resize(self.tables, 0);
        for (given, at) in entry.inputs.iter().zip(&self.inputs) {
            copy_input(given, call, &mut words[*at..])?;
        }
        for (i, rows) in call.sequences.iter().enumerate() {
            let end = rows.first.checked_add(rows.count).filter(|end| *end <= call.tokens);
            if !entry.of_images && (rows.count == 0 || end.is_none()) {
                return Err(invalid("a sequence does not lie within the call's rows"));
            }
            words[self.sequences + 2 * i] = rows.first as u32;
            words[self.sequences + 2 * i + 1] = rows.count as u32;
        }
        for (i, row) in call.output_rows.iter().enumerate() {
            if *row >= call.tokens {
                return Err(invalid("an output is asked for of a row that is not there"));
            }
            words[self.outputs + i] = *row as u32;
        }
        words[self.temperature] = call.pick.temperature.to_bits();
        self.fill_spans(entry, call.spans, table, words)
    }

    fn fill_spans(
        &self,
        entry: &DeviceEntry,
        spans: &[Span],
        table: Option<&BlockTable>,
        words: &mut Vec<u32>,
    ) -> Result<()> {
        if !entry.attends {
            return Ok(());
        }
        let mut local = 0;
        for span in spans {
            let before = if table.is_some() { span.start } else { 0 };
            let blocks = words.len() as u32;
            match table {
                Some(table) => {
                    let sequence =
                        span.sequence.ok_or_else(|| invalid("a span has no sequence"))?;
                    table.check_writable(sequence, span.start, span.rows)?;
                    words.extend_from_slice(table.table(sequence)?);
                }
                None => {
                    let count = span.rows.div_ceil(KV_BLOCK) as u32;
                    words.extend(local..local + count);
                    local += count;
                }
            }
            for i in 0..span.rows {
                let row = span.first_row.saturating_add(i);
                let at = self.rows + row.saturating_mul(ROW_WORDS);
                let free = at < self.sequences && words[at + 3] == 0;
                if !free || span.keys > span.rows {
                    return Err(invalid("spans overlap or reach past the call's rows"));
                }
                let found = [(before + i) as u32, (before + span.keys) as u32, blocks, 1];
                words[at..at + ROW_WORDS].copy_from_slice(&found);
                for (turns, start) in entry.turns.iter().zip(&self.turns) {
                    turns.write(
                        span.start + i,
                        &mut words[start + row * 2 * turns.inv_freq.len()..],
                    );
                }
            }
        }
        Ok(())
    }

    /// Blocks that a call's sequences take where attention keeps nothing.
    pub fn local_blocks(spans: &[Span]) -> usize {
        spans.iter().map(|span| span.rows.div_ceil(KV_BLOCK)).sum()
    }
}

impl Turns {
    /// The pairs of a position.
    fn write(&self, position: usize, words: &mut [u32]) {
        for (f, pair) in self.inv_freq.iter().zip(words.chunks_exact_mut(2)) {
            // As the other backends have it: the angle is rounded before its sine is taken.
            let (sin, cos) = f64::from(position as f32 * f).sin_cos();
            let factor = f64::from(self.factor);
            pair[0] = ((cos * factor) as f32).to_bits();
            pair[1] = ((sin * factor) as f32).to_bits();
        }
    }
}

fn copy_input(input: &Given, call: &Call<'_>, words: &mut [u32]) -> Result<()> {
    match input {
        Given::Ids { name, below } => {
            let found = call.inputs.iter().find(|(n, _)| n == name);
            let (_, ids) = found.ok_or_else(|| invalid(format!("input {name:?} is missing")))?;
            if let Some((at, id)) = ids
                .iter()
                .enumerate()
                .find(|(_, id)| usize::try_from(**id).map_or(true, |id| id >= *below))
            {
                let message = format!("id {id} at {at} is outside a table of {below} rows");
                return Err(invalid(message));
            }
            words.iter_mut().zip(*ids).for_each(|(word, id)| *word = *id as u32);
        }
        Given::Numbers { name, cols } => {
            let numbers = given(call, name)?;
            let want = call.sequences.len().saturating_mul(*cols);
            if numbers.len() != want {
                let message = format!("input {name:?} has {} numbers, not {want}", numbers.len());
                return Err(invalid(message));
            }
            words.iter_mut().zip(numbers).for_each(|(word, number)| *word = number.to_bits());
        }
        Given::Tensor => {}
    }
    Ok(())
}

/// The inputs of an entry in the order of their ids; `below` gives the rows of the table that an input's ids
/// are looked up in.
pub(super) fn inputs(entry: &limbeck_plan::Entry, below: impl Fn(usize) -> usize) -> Vec<Given> {
    let inputs = entry.operands_of(limbeck_plan::OperandKind::Input).enumerate();
    let given = inputs.map(|(index, (_, operand))| {
        let name = operand.name.clone();
        match (operand.fact.dtype, operand.fact.is_of_call()) {
            (_, false) => Given::Tensor,
            (limbeck_plan::DType::I32, _) => Given::Ids { name, below: below(index) },
            (limbeck_plan::DType::F32, _) => {
                let cols = operand.fact.shape.last().and_then(Dim::as_const).unwrap_or(0);
                Given::Numbers { name, cols: cols as usize }
            }
        }
    });
    given.collect()
}

/// Whether an input's rows are images, whose sequences are not of tokens.
pub(super) fn of_images(entry: &limbeck_plan::Entry) -> bool {
    let mut operands = entry.operands.iter();
    operands.any(|o| {
        o.fact
            .shape
            .first()
            .and_then(|rows| rows.factor_of(Symbol::SEQUENCES))
            .is_some_and(|n| n > 1)
    })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
