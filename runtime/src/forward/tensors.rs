//! Plans whose inputs and outputs are tensors with names and shapes of their own. A call binds the
//! symbols of its inputs' shapes.

use std::time::Instant;

use limbeck_kernels::{Elements, KvType, TensorArg};
use limbeck_plan::{DType, Dim, Entry, Fact, OperandKind, Program};

use super::Inputs;
use super::tensor::{Tensor, TensorData, TensorValues, TensorView};
use crate::backend::{Bounds, Call, Spent, State};
use crate::control::Control;
use crate::controller::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Account;
use crate::model::Model;
use crate::pace::{self, Pace};
use crate::text::shortlist::Pick;
use crate::usage::Usage;

/// Runs an entry of tensors within a budget.
pub(super) struct Tensors {
    runner: EntryRunner,
    entry: usize,
    pace: Pace,
}

/// Runs entries of tensors.
pub(crate) struct EntryRunner {
    model: Model,
    state: Box<dyn State>,
}

/// A tensor's elements as the plan takes them.
enum Taken<'a> {
    Given(Elements<'a>),
    /// Narrowed.
    Integers(Vec<i32>),
}

impl Tensors {
    /// Over an entry of a plan, with a limit on its memory; 0 for none.
    pub fn new(model: &Model, entry: &str, memory_limit: usize) -> Result<Tensors> {
        let entry = model.entry(entry)?;
        let runner = EntryRunner::new(model, &model.account("forward", memory_limit))?;
        let pace = Pace::per_call(model.curve(), model.logger());
        Ok(Tensors { runner, entry, pace })
    }

    pub fn control(&self) -> Control {
        self.pace.control().clone()
    }

    pub fn status(&self) -> Status {
        self.pace.status()
    }

    /// Runs the entry once.
    ///
    /// # Errors
    /// A tensor that is missing, or not of its type, shape or range; cancellation.
    pub fn run(&mut self, given: &Inputs<'_>) -> Result<(Vec<Tensor>, Usage)> {
        let start = Instant::now();
        let mut usage =
            pace::call(self, |tensors| &mut tensors.pace, 1, |tensors| tensors.run_once(given))?;
        usage.ms = start.elapsed().as_secs_f64() * 1e3;
        usage.unmet = self.pace.status().unmet;
        Ok((self.runner.outputs(self.entry)?, usage))
    }

    fn run_once(&mut self, given: &Inputs<'_>) -> Result<Usage> {
        let mut usage = Usage { fraction: 1.0, ..Usage::default() };
        let price = self.pace.next(1, 1)?;
        let spent = {
            let given = |name: &str| given.required(name).copied();
            self.runner.run(self.entry, &given, price, self.pace.control())?
        };
        self.pace.observe(spent);
        let sites = &self.runner.model.plan().program().sites;
        usage.count(1, spent, sites, self.runner.state.choices());
        Ok(usage)
    }
}

impl EntryRunner {
    /// Over a plan, with what grows charged to the account.
    pub fn new(model: &Model, account: &Account) -> Result<EntryRunner> {
        let bounds = Bounds { tokens: 0, cache_tokens: 0, kv: KvType::F32 };
        let state = model.state(&bounds, account)?;
        Ok(EntryRunner { model: model.clone(), state })
    }

    /// Runs an entry once, on the tensors that `given` has for the names of its inputs.
    ///
    /// # Errors
    /// A tensor that is not of its type, shape or range, or that `given` lacks; cancellation.
    pub fn run<'a>(
        &mut self,
        entry: usize,
        given: &dyn Fn(&str) -> Result<TensorView<'a>>,
        price: f32,
        control: &Control,
    ) -> Result<Spent> {
        let model = self.model.clone();
        let program = model.plan().program();
        let (mut tensors, mut sizes) = (Vec::new(), Vec::new());
        for (_, operand) in self::entry(program, entry)?.operands_of(OperandKind::Input) {
            let view = given(&operand.name)?;
            bind(&view, &operand.fact, &mut sizes)?;
            tensors.push((operand.name.as_str(), view.shape, take(&view, operand.fact.dtype)?));
        }
        let arguments: Vec<(&str, TensorArg<'_>)> = tensors
            .iter()
            .map(|(name, shape, taken)| {
                let data = match taken {
                    Taken::Given(data) => *data,
                    Taken::Integers(values) => Elements::I32(values),
                };
                (*name, TensorArg { shape, data })
            })
            .collect();
        let ran = self.state.run(&Call {
            entry,
            inputs: &[],
            floats: &[],
            tensors: &arguments,
            sizes: &sizes,
            tokens: 0,
            spans: &[],
            sequences: &[],
            output_rows: &[],
            price,
            forced: None,
            control: Some(control),
            pick: Pick::default(),
        });
        let entry = program.entries.get(entry);
        ran.map_err(|error| match entry.and_then(|entry| entry.without_size(&sizes)) {
            Some((place, message)) => Error::new(ErrorKind::InvalidInput, message).at(place),
            None => error,
        })
    }

    /// An output of the last run.
    pub fn output(&self, name: &str) -> Result<TensorArg<'_>> {
        self.state.tensor(name).ok_or_else(|| {
            Error::new(ErrorKind::Plan, format!("the entry gave no output {name:?}"))
        })
    }

    fn outputs(&self, entry: usize) -> Result<Vec<Tensor>> {
        let output = |name: &str| {
            let found = self.output(name)?;
            let values = match found.data {
                Elements::F32(values) => TensorValues::F32(values.to_vec()),
                Elements::I32(values) => TensorValues::I32(values.to_vec()),
            };
            Ok(Tensor { name: name.to_owned().into(), shape: found.shape.to_vec(), values })
        };
        let entry = self::entry(self.model.plan().program(), entry)?;
        entry.operands_of(OperandKind::Output).map(|(_, o)| output(&o.name)).collect()
    }
}

fn entry(program: &Program, index: usize) -> Result<&Entry> {
    let found = program.entries.get(index);
    found.ok_or_else(|| Error::new(ErrorKind::Plan, "the entry is not there"))
}

/// Binds the symbols of a shape to what is given.
fn bind<'a>(view: &TensorView<'_>, fact: &'a Fact, sizes: &mut Vec<(&'a str, u64)>) -> Result<()> {
    let refuse = |sizes: &[(&str, u64)]| {
        let bound: Vec<String> = sizes.iter().map(|(name, n)| format!("{name} is {n}")).collect();
        let bound =
            if bound.is_empty() { String::new() } else { format!(" where {}", bound.join(", ")) };
        let shape = view.shape;
        Err(view.wrong(format!("its shape {shape:?} is not that of {fact}{bound}")))
    };
    if view.shape.len() != fact.shape.len() {
        return refuse(sizes);
    }
    for (size, dim) in view.shape.iter().zip(&fact.shape) {
        let size = *size as u64;
        let expected = match dim {
            Dim::Symbol(s) => match sizes.iter().find(|(name, _)| *name == s.name()) {
                Some((_, bound)) => Some(*bound),
                None => {
                    sizes.push((s.name(), size));
                    Some(size)
                }
            },
            dim => dim.as_const(),
        };
        if expected != Some(size) {
            return refuse(sizes);
        }
    }
    Ok(())
}

/// The elements as this type.
fn take<'a>(view: &TensorView<'a>, dtype: DType) -> Result<Taken<'a>> {
    match (dtype, view.data) {
        (DType::F32, _) => Ok(Taken::Given(Elements::F32(view.as_floats()?))),
        (DType::I32, TensorData::I32(values)) => Ok(Taken::Given(Elements::I32(values))),
        (DType::I32, _) => {
            let narrow = |v: i64| {
                i32::try_from(v).map_err(|_| view.wrong(format!("{v} does not fit 32 bits")))
            };
            let values = view.as_integers()?.into_iter().map(narrow);
            Ok(Taken::Integers(values.collect::<Result<_>>()?))
        }
    }
}
