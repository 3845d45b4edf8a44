//! Classifiers: how often the top class of an image is its label or, without labels, that of price 0.

use std::path::Path;

use limbeck::plan::QualityKind;
use limbeck::{Classifier, Model, Usage};

use super::measure::{Measure, Measured, mean, median, set_price};
use crate::args::TuneArgs;
use crate::npz::Inputs;
use crate::output::Failure;

/// Images classified at a time.
const BATCH: usize = 32;
/// The tensors of a file; the second may be missing.
const TENSORS: [&str; 2] = ["pixel_values", "labels"];

/// The images of a file.
pub struct Images {
    /// By image.
    pixels: Vec<Vec<f32>>,
    /// By image: its class, where the file says it.
    labels: Option<Vec<usize>>,
    /// By image: the top class at price 0.
    full: Vec<usize>,
    /// Tokens of an image.
    tokens: usize,
    /// Milliseconds per token of the batches run last.
    times: Vec<f64>,
}

impl Images {
    /// Reads the file and classifies its images at price 0.
    pub fn read(model: &Model, args: &TuneArgs) -> Result<Images, Failure> {
        let classifier = Classifier::new(model)?;
        let tokens = classifier.tokens();
        let most = args.max_tokens.map_or(usize::MAX, |most| most / tokens.max(1));
        if most == 0 {
            let message = format!("--max-tokens is less than the {tokens} tokens of an image");
            return Err(Failure::new(message));
        }
        let mut inputs = Inputs::open(args.data())?;
        if let Some(name) = inputs.names().iter().find(|n| !TENSORS.contains(&n.as_str())) {
            let message = format!("{name:?} is not among {}", TENSORS.join(", "));
            return Err(Failure::new(format!("{}: {message}", args.data().display())));
        }
        let found = inputs.images(classifier.image())?;
        let labels = labels(&mut inputs, args.data(), found.shape[0], classifier.classes())?;
        let size = found.values.len() / found.shape[0];
        let pixels = found.values.chunks_exact(size).take(most).map(<[f32]>::to_vec).collect();
        let mut images = Images { pixels, labels, full: Vec::new(), tokens, times: Vec::new() };
        let all: Vec<usize> = (0..images.pixels.len()).collect();
        images.full = images.classify(model, 0.0, &all)?.top;
        Ok(images)
    }

    fn classify(&self, model: &Model, price: f64, pieces: &[usize]) -> Result<Classes, Failure> {
        let mut classifier = Classifier::new(model)?;
        set_price(&classifier.control(), price)?;
        let mut classes = Classes::default();
        for batch in pieces.chunks(BATCH) {
            let pixels: Vec<&[f32]> = batch.iter().map(|i| self.pixels[*i].as_slice()).collect();
            let (logits, spent) = classifier.classify(&pixels.concat())?;
            if logits.iter().any(|v| !v.is_finite()) {
                let message = format!("the student's logits at price {price} are not all numbers");
                return Err(Failure::new(message));
            }
            classes.top.extend(logits.chunks_exact(classifier.classes().max(1)).map(top));
            classes.times.push(spent.ms / spent.tokens.max(1) as f64);
            classes.usage.add(&spent);
        }
        Ok(classes)
    }
}

#[derive(Default)]
struct Classes {
    usage: Usage,
    /// By image.
    top: Vec<usize>,
    /// Milliseconds per token, by batch.
    times: Vec<f64>,
}

/// The class of the largest logit, the first of equals.
fn top(logits: &[f32]) -> usize {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|v| *v == best).unwrap_or(0)
}

fn labels(
    inputs: &mut Inputs,
    path: &Path,
    images: usize,
    classes: usize,
) -> Result<Option<Vec<usize>>, Failure> {
    let Some(found) = inputs.integers(TENSORS[1])? else { return Ok(None) };
    let fail =
        |message| Failure::new(format!("{}: tensor {:?}: {message}", path.display(), TENSORS[1]));
    if found.shape != [images] {
        return Err(fail(format!("its shape {:?} is not [{images}]", found.shape)));
    }
    let label = |(image, value): (usize, &i64)| {
        let label = usize::try_from(*value).ok().filter(|label| *label < classes);
        label.ok_or_else(|| fail(format!("{value} of image {image} is none of {classes} classes")))
    };
    found.values.iter().enumerate().map(label).collect::<Result<_, _>>().map(Some)
}

impl Measure for Images {
    fn quality(&self) -> QualityKind {
        if self.labels.is_some() { QualityKind::Accuracy } else { QualityKind::Agreement }
    }

    fn pieces(&self) -> Vec<usize> {
        vec![self.tokens; self.pixels.len()]
    }

    fn run(&mut self, model: &Model, price: f64, pieces: &[usize]) -> Result<Measured, Failure> {
        let Classes { usage, top, times } = self.classify(model, price, pieces)?;
        self.times = times;
        let share = |of: &[usize]| {
            let same = pieces.iter().zip(&top).filter(|(piece, top)| of[**piece] == **top);
            mean(same.count() as f64, pieces.len(), price)
        };
        let agreement = share(&self.full)?;
        let (quality, more) = match &self.labels {
            Some(labels) => (share(labels)?, vec![("agreement", agreement)]),
            None => (agreement, Vec::new()),
        };
        Ok(Measured { usage, quality, ms_per_token: None, more })
    }

    /// Of a token in a batch: the median over the batches run last.
    fn time(&mut self, _: &Model, _: f64) -> Result<f64, Failure> {
        Ok(median(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_class_is_the_first_of_the_largest() {
        assert_eq!(top(&[0.5, 2.0, -1.0, 2.0]), 1);
        assert_eq!(top(&[-3.0, -2.0]), 1);
        assert_eq!(top(&[-0.0, 0.0]), 0);
    }
}
