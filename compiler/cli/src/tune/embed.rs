//! Encoders: the cosine of a sentence's embedding to the one at price 0.

use limbeck::plan::QualityKind;
use limbeck::{Encoded, Encoder, EncoderInput, Model, Usage};

use super::measure::{Measure, Measured, mean, median, set_price};
use crate::args::TuneArgs;
use crate::output::Failure;
use crate::score::{need_tokenizer, read_text};

/// Sentences encoded at a time.
const BATCH: usize = 32;

/// The lines of a file.
pub struct Sentences {
    ids: Vec<Vec<u32>>,
    positions: Vec<u32>,
    /// By sentence: its embedding at price 0.
    full: Vec<Vec<f32>>,
    /// Milliseconds per token of the batches run last.
    times: Vec<f64>,
}

impl Sentences {
    /// Reads the file and embeds its lines at price 0. Empty lines are left out.
    pub fn read(model: &Model, args: &TuneArgs) -> Result<Sentences, Failure> {
        need_tokenizer(model)?;
        let text = read_text(args.data())?;
        let encoder = Encoder::new(model)?;
        let most = args.max_tokens.unwrap_or(usize::MAX);
        let (mut ids, mut tokens) = (Vec::new(), 0);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line = encoder.tokenize(line)?;
            tokens += line.len();
            if tokens > most {
                break;
            }
            ids.push(line);
        }
        if ids.is_empty() {
            let message = "there is no sentence in it";
            return Err(Failure::new(format!("{}: {message}", args.data().display())));
        }
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        let positions = (0..longest as u32).collect();
        let sentences = Sentences { ids, positions, full: Vec::new(), times: Vec::new() };
        let all: Vec<usize> = (0..sentences.ids.len()).collect();
        let mut full = Vec::new();
        sentences.encode(model, 0.0, &all, |_, embedding| full.push(embedding.to_vec()))?;
        Ok(Sentences { full, ..sentences })
    }

    fn encode(
        &self,
        model: &Model,
        price: f64,
        pieces: &[usize],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(Usage, Vec<f64>), Failure> {
        let mut encoder = Encoder::new(model)?;
        set_price(&encoder.control(), price)?;
        let (mut usage, mut times) = (Usage::default(), Vec::new());
        for batch in pieces.chunks(BATCH) {
            let input = |&piece: &usize| {
                let ids = &self.ids[piece];
                EncoderInput { ids, positions: &self.positions[..ids.len()], keys: ids.len() }
            };
            let inputs: Vec<EncoderInput<'_>> = batch.iter().map(input).collect();
            let sink = |i: usize, encoded: &Encoded<'_>| each(batch[i], encoded.embedding);
            let spent = encoder.encode(&inputs, sink)?;
            times.push(spent.ms / spent.tokens.max(1) as f64);
            usage.add(&spent);
        }
        Ok((usage, times))
    }
}

impl Measure for Sentences {
    fn quality(&self) -> QualityKind {
        QualityKind::Cosine
    }

    fn pieces(&self) -> Vec<usize> {
        self.ids.iter().map(Vec::len).collect()
    }

    fn run(&mut self, model: &Model, price: f64, pieces: &[usize]) -> Result<Measured, Failure> {
        let mut cosines = Vec::with_capacity(pieces.len());
        let (usage, times) = self.encode(model, price, pieces, |piece, embedding| {
            cosines.push(cosine(embedding, &self.full[piece]));
        })?;
        self.times = times;
        // Rounding may leave a cosine of 1 a little above it.
        let quality = mean(cosines.iter().sum(), cosines.len(), price)?.clamp(-1.0, 1.0);
        cosines.sort_by(f64::total_cmp);
        let low = cosines.get(cosines.len() / 20).copied().unwrap_or(quality);
        Ok(Measured { usage, quality, ms_per_token: None, more: vec![("percentile_5", low)] })
    }

    /// Of a token in a batch: the median over the batches run last.
    fn time(&mut self, _: &Model, _: f64) -> Result<f64, Failure> {
        Ok(median(&mut self.times))
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
