//! The diffusion task: noise to samples, in a few calls of a student that denoises.
//!
//! A plan's [`Sampler`] has a table of steps for each number of steps. With the sample `x`, a row's entry
//! gives `out`, and `clip(a x + b out) + c z` is the next `x`. The noise `z` is made here, by Philox, so that a
//! seed means the same with every backend and any number of threads. A sample has a seed of its own: it does
//! not depend on what else is made with it.

mod conditions;

use std::ops::ControlFlow;
use std::time::Instant;

use limbeck_plan::{Condition, Dim, Fact, OperandKind, Sampler, StepRow};

use crate::backend::Spent;
use crate::control::{Control, Settings};
use crate::controller::Status;
use crate::controller::steps::{StepChoice, StepController, StepCount};
use crate::error::{Error, ErrorKind, Result};
use crate::forward::{EntryRunner, TensorData, TensorView};
use crate::memory::{self, Account};
use crate::model::Model;
use crate::pace::{Teller, check_cancelled};
use crate::philox::normals;
use crate::usage::Usage;
use conditions::{Filled, check_range, out_of_range};
use limbeck_kernels::Elements;

/// Most samples of a call.
const MAX_SAMPLES: usize = 1 << 12;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct DiffuseOptions<'a> {
    /// How many samples, made side by side.
    pub samples: usize,
    /// Seed of the first; each other has the next one's.
    pub seed: u64,
    /// A number of steps in the place of the budget's.
    pub steps: Option<usize>,
    /// Conditions that are one number for all samples.
    pub numbers: &'a [(&'a str, f64)],
    /// Conditions as tensors.
    pub tensors: &'a [TensorView<'a>],
}

impl Default for DiffuseOptions<'_> {
    fn default() -> Self {
        DiffuseOptions { samples: 1, seed: 0, steps: None, numbers: &[], tensors: &[] }
    }
}

/// A call after one of its steps.
#[derive(Clone, Copy, Debug)]
pub struct DiffuseProgress<'a> {
    /// Steps done.
    pub done: usize,
    /// Steps of the call.
    pub of: usize,
    /// The samples as they are now, noise included, `[samples, ...]`.
    pub samples: &'a [f32],
}

/// Finished samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Diffusion {
    /// Elements, row-major.
    pub values: Vec<f32>,
    /// Sizes, that of the batch first.
    pub shape: Vec<usize>,
    /// Steps that were taken.
    pub steps: usize,
    /// What it took; a sample counts as a token.
    pub usage: Usage,
}

/// Makes samples of noise. A budget chooses the number of steps of each call: time for the call (`deadline`),
/// or for each of its samples (`latency`), by the steps timed before or, in a first call, by its first one.
pub struct Diffuser {
    model: Model,
    sampler: Sampler,
    runner: EntryRunner,
    account: Account,
    sample: Fact,
    /// Elements of a sample.
    elements: usize,
    control: Control,
    settings: Settings,
    controller: StepController,
    teller: Teller,
    origin: Instant,
}

/// The call in progress.
struct Run {
    /// `[samples, ...]`
    x: Vec<f32>,
    /// What the entry is given of it.
    given: Vec<f32>,
    shape: Vec<usize>,
    seed: u64,
    spent: Spent,
}

impl Diffuser {
    /// Over a plan whose task is diffusion.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn new(model: &Model) -> Result<Diffuser> {
        Diffuser::with_limit(model, 0)
    }

    /// [`Diffuser::new`] whose buffers and scratch may take so many bytes; 0 for no limit but the engine's.
    ///
    /// # Errors
    /// A plan with another task.
    pub fn with_limit(model: &Model, memory_limit: usize) -> Result<Diffuser> {
        let program = model.plan().program();
        let Some(sampler) = program.sampler.clone() else {
            let message = "the plan does not make samples of noise: it has no sampler (docs/samplers.md says how compile \
                 --sampler declares one)";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let malformed = || Error::new(ErrorKind::Plan, "the plan's sampler has no sample");
        let first = sampler.tables.first().and_then(|table| table.rows.first());
        let entry = first.and_then(|row| program.entry(&row.entry)).ok_or_else(malformed)?;
        let mut inputs = entry.operands_of(OperandKind::Input);
        let (_, operand) = inputs.find(|(_, o)| o.name == sampler.sample).ok_or_else(malformed)?;
        let sizes = operand.fact.shape.iter().skip(1).map(Dim::as_const);
        let elements: Option<u64> =
            sizes.into_iter().try_fold(1u64, |n, size| n.checked_mul(size?));
        let elements = elements.and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        let weight = program.sites.get(sampler.site).map_or(1.0, |site| site.weight);
        let count = |t: &limbeck_plan::StepTable| StepCount { steps: t.rows.len(), gain: t.gain };
        let controller = StepController::new(sampler.tables.iter().map(count).collect(), weight);
        let account = model.account("diffuser", memory_limit);
        Ok(Diffuser {
            runner: EntryRunner::new(model, &account)?,
            sample: operand.fact.clone(),
            elements,
            control: Control::default(),
            settings: Settings::default(),
            controller,
            teller: Teller::new(model.logger()),
            origin: Instant::now(),
            model: model.clone(),
            account,
            sampler,
        })
    }

    /// The handle that cancels this diffuser's calls and sets its budget, from any thread. A budget holds
    /// from the next call on. A new diffuser has the budget `full`: the most steps.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// How the budget fares.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// The inputs that a caller sets.
    pub fn conditions(&self) -> &[Condition] {
        &self.sampler.conditions
    }

    /// Numbers of steps to choose from, the fewest first.
    pub fn counts(&self) -> Vec<usize> {
        self.sampler.counts().collect()
    }

    /// A sample's sizes, without the batch.
    pub fn shape(&self) -> Vec<usize> {
        let sizes = self.sample.shape.iter().skip(1);
        sizes.filter_map(|d| d.as_const().and_then(|n| usize::try_from(n).ok())).collect()
    }

    /// The values of a finished sample that stand for black and white, or for the lowest and the highest.
    pub fn values(&self) -> [f32; 2] {
        self.sampler.values.map(|v| v as f32)
    }

    /// Bytes in use.
    pub fn memory_used(&self) -> usize {
        self.account.used()
    }

    /// Makes samples. `progress` hears of each step and may end the call.
    ///
    /// # Errors
    /// A condition that is missing, unknown or out of range; a number of steps without a table; no memory;
    /// cancellation, also by `progress`.
    pub fn diffuse(
        &mut self,
        options: &DiffuseOptions<'_>,
        progress: impl FnMut(DiffuseProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Diffusion> {
        let start = Instant::now();
        check_cancelled(&self.control)?;
        self.check(options)?;
        let conditions = self.fill(options)?;
        let mut holding = self.account.holding();
        let elements = self.elements.checked_mul(options.samples);
        let own = elements.and_then(|n| n.checked_mul(8)).unwrap_or(usize::MAX);
        holding.set(conditions.iter().map(Filled::bytes).fold(own, usize::saturating_add))?;
        let elements = elements.unwrap_or(usize::MAX);
        let mut shape = vec![options.samples];
        shape.extend(self.shape());
        let mut run = Run {
            x: memory::vector(elements)?,
            given: memory::vector(elements)?,
            shape,
            seed: options.seed,
            spent: Spent::default(),
        };
        let steps = self.steps(options, &conditions, &mut run, progress)?;
        self.controller.end(steps, options.steps.is_some(), self.now());
        let status = self.controller.status();
        self.teller.publish(&self.control, status);
        self.teller.tell(self.settings.budget, status.unmet);
        let Run { x: values, shape, spent, .. } = run;
        let mut usage = self.usage(options.samples, steps, spent);
        usage.ms = start.elapsed().as_secs_f64() * 1e3;
        usage.unmet = status.unmet;
        Ok(Diffusion { values, shape, steps, usage })
    }

    /// Takes all steps; gives their number.
    fn steps(
        &mut self,
        options: &DiffuseOptions<'_>,
        conditions: &[Filled],
        run: &mut Run,
        mut progress: impl FnMut(DiffuseProgress<'_>) -> ControlFlow<()>,
    ) -> Result<usize> {
        self.control.refresh(&mut self.settings);
        let choice = self.controller.begin(&self.settings, options.samples, self.now());
        let (mut steps, open) = match (options.steps, choice) {
            (Some(steps), _) => (steps, false),
            (None, StepChoice::Known(steps)) => (steps, false),
            (None, StepChoice::AtLeast(steps)) => (steps, true),
        };
        self.teller.publish(&self.control, self.controller.status());
        let start = self.table(steps)?.start as f32;
        self.each_sample(run, 0, |x, z| *x = start * z);
        let mut done = 0;
        while done < steps {
            check_cancelled(&self.control)?;
            let row = self.row(steps, done)?;
            let began = self.now();
            self.call(&row, options, conditions, run)?;
            self.controller.observe(self.now() - began);
            let row = if done == 0 && open {
                steps = self.controller.after_first(&self.alike(steps)?, self.now());
                self.row(steps, 0)?
            } else {
                row
            };
            self.advance(&row, done, run)?;
            done += 1;
            let now = DiffuseProgress { done, of: steps, samples: &run.x };
            if progress(now).is_break() {
                let message = format!("the call was ended after {done} of {steps} steps");
                return Err(Error::new(ErrorKind::Cancelled, message));
            }
        }
        Ok(steps)
    }

    /// Runs a row's entry.
    fn call(
        &mut self,
        row: &StepRow,
        options: &DiffuseOptions<'_>,
        conditions: &[Filled],
        run: &mut Run,
    ) -> Result<()> {
        let entry = self.model.entry(&row.entry)?;
        let scale = row.input_scale as f32;
        run.given.iter_mut().zip(&run.x).for_each(|(given, x)| *given = scale * x);
        let times = [
            (&self.sampler.time, row.t_model),
            (&self.sampler.second_time, row.r_model),
            (&self.sampler.guidance, row.guidance),
        ];
        let mut filled = Vec::new();
        for (name, value) in times {
            if let Some(name) = name {
                filled.push(self.filled(&row.entry, name, options.samples, value)?);
            }
        }
        let given = |name: &str| {
            if name == self.sampler.sample {
                let data = TensorData::F32(&run.given);
                return Ok(TensorView { name: &self.sampler.sample, shape: &run.shape, data });
            }
            let own = filled.iter().chain(conditions).find(|f| f.name == name).map(Filled::view);
            let tensor = || options.tensors.iter().find(|t| t.name == name).copied();
            own.or_else(tensor).ok_or_else(|| missing(name))
        };
        let spent = self.runner.run(entry, &given, 0.0, &self.control)?;
        run.spent.macs = run.spent.macs.saturating_add(spent.macs);
        run.spent.bytes = run.spent.bytes.saturating_add(spent.bytes);
        Ok(())
    }

    /// Makes the next sample of what a row's entry gave.
    fn advance(&self, row: &StepRow, done: usize, run: &mut Run) -> Result<()> {
        let output = self.runner.output(&self.sampler.output)?;
        let Elements::F32(out) = output.data else {
            return Err(Error::new(ErrorKind::Plan, "the sampler's output is not of floats"));
        };
        let clip = row.clip.unwrap_or(f64::INFINITY);
        for (x, out) in run.x.iter_mut().zip(out) {
            let mean = row.a * f64::from(*x) + row.b * f64::from(*out);
            *x = mean.clamp(-clip, clip) as f32;
        }
        if row.c != 0.0 {
            let draw = u32::try_from(done + 1).unwrap_or(u32::MAX);
            let c = row.c as f32;
            self.each_sample(run, draw, |x, z| *x += c * z);
        }
        Ok(())
    }

    /// Goes through all elements with their noise of a draw.
    fn each_sample(&self, run: &mut Run, draw: u32, change: impl Fn(&mut f32, f32)) {
        let samples = run.x.chunks_exact_mut(self.elements.max(1));
        for (seed, sample) in (0u64..).map(|i| run.seed.wrapping_add(i)).zip(samples) {
            sample.iter_mut().zip(normals(seed, draw)).for_each(|(x, z)| change(x, z));
        }
    }

    fn table(&self, steps: usize) -> Result<&limbeck_plan::StepTable> {
        self.sampler.table(steps).ok_or_else(|| {
            let counts: Vec<String> = self.sampler.counts().map(|n| n.to_string()).collect();
            let counts = counts.join(", ");
            let message = format!("the plan has no table of {steps} steps, only of {counts}");
            Error::new(ErrorKind::InvalidInput, message)
        })
    }

    fn row(&self, steps: usize, at: usize) -> Result<StepRow> {
        let row = self.table(steps)?.rows.get(at).cloned();
        row.ok_or_else(|| Error::new(ErrorKind::Plan, "a table of steps has too few rows"))
    }

    /// Numbers of steps that begin as this one does.
    fn alike(&self, steps: usize) -> Result<Vec<usize>> {
        let (own, first) = (self.table(steps)?, self.row(steps, 0)?);
        let tables = self.sampler.tables.iter().filter(|table| {
            table.start == own.start && table.rows.first().is_some_and(|row| row.same_call(&first))
        });
        Ok(tables.map(|table| table.rows.len()).collect())
    }

    fn check(&self, options: &DiffuseOptions<'_>) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        let DiffuseOptions { samples, steps, numbers, tensors, .. } = options;
        if !(1..=MAX_SAMPLES).contains(samples) {
            return invalid(format!("{samples} samples are not 1 to {MAX_SAMPLES}"));
        }
        let batch = self.sample.shape.first().and_then(Dim::as_const);
        if let Some(batch) = batch.filter(|batch| *batch != *samples as u64) {
            return invalid(format!("the student makes {batch} samples at a time, not {samples}"));
        }
        if let Some(steps) = steps {
            self.table(*steps)?;
        }
        let names: Vec<&str> =
            numbers.iter().map(|(name, _)| *name).chain(tensors.iter().map(|t| t.name)).collect();
        for (at, name) in names.iter().enumerate() {
            if !self.conditions().iter().any(|condition| condition.name == *name) {
                let known: Vec<&str> = self.conditions().iter().map(|c| c.name.as_str()).collect();
                let known = if known.is_empty() { "nothing".into() } else { known.join(", ") };
                return invalid(format!("the student has no condition {name:?}, only {known}"));
            }
            if names.iter().take(at).any(|other| other == name) {
                return invalid(format!("the condition {name:?} is given twice"));
            }
        }
        tensors.iter().try_for_each(TensorView::check)
    }

    /// The conditions that are numbers: given ones, else their defaults.
    fn fill(&self, options: &DiffuseOptions<'_>) -> Result<Vec<Filled>> {
        let mut filled = Vec::new();
        for condition in self.conditions() {
            let name = condition.name.as_str();
            if let Some(tensor) = options.tensors.iter().find(|tensor| tensor.name == name) {
                check_range(condition, tensor)?;
                continue;
            }
            let number = options.numbers.iter().find(|(given, _)| *given == name);
            let value = number.map(|(_, value)| *value).or(condition.default);
            let value = value.ok_or_else(|| missing(name))?;
            let below = condition.least.is_some_and(|least| value < least);
            if !value.is_finite() || below || condition.most.is_some_and(|most| value > most) {
                return Err(out_of_range(condition, value));
            }
            let entries = self.model.plan().program().entries.iter();
            let taken = |e: &&limbeck_plan::Entry| {
                e.operands_of(OperandKind::Input).any(|(_, o)| o.name == name)
            };
            let entry = entries.into_iter().find(taken).map_or("", |entry| entry.name.as_str());
            filled.push(self.filled(entry, name, options.samples, value)?);
        }
        Ok(filled)
    }

    /// An input of an entry, each element of it this number.
    fn filled(&self, entry: &str, name: &str, samples: usize, value: f64) -> Result<Filled> {
        let entry = self.model.plan().program().entry(entry);
        let operand = entry.and_then(|entry| {
            entry.operands_of(OperandKind::Input).find(|(_, o)| o.name == name).map(|(_, o)| o)
        });
        let operand = operand.ok_or_else(|| missing(name))?;
        let batch = self.sample.shape.first().cloned().unwrap_or(Dim::Const(1));
        Filled::number(name, &operand.fact, &batch, samples, value)
    }

    fn usage(&self, samples: usize, steps: usize, spent: Spent) -> Usage {
        let most = self.sampler.counts().next_back().unwrap_or(steps);
        let full = u128::from(spent.macs) * most as u128 / steps.max(1) as u128;
        let full_macs = u64::try_from(full).unwrap_or(u64::MAX);
        let (site_macs, site_full_macs) = (spent.macs, full_macs);
        let spent = Spent { full_macs, site_macs, site_full_macs, ..spent };
        let choices = vec![i32::try_from(steps).unwrap_or(i32::MAX); samples];
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        usage.count(samples, spent, &self.model.plan().program().sites, &choices);
        usage
    }

    /// Seconds since the diffuser was made.
    fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the condition {name:?} must be given"))
}
