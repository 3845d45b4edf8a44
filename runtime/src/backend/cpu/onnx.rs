//! Segments of ONNX Runtime among the instructions.

use limbeck_kernels::{Elements, TensorArg};
use limbeck_plan::{DType, OperandId};

use super::run::Runner;
use crate::backend::lower::{Given, Instruction};
use crate::backend::{given, onnx};
use crate::error::{Error, ErrorKind, Result};

impl Runner<'_> {
    pub(super) fn onnx(&mut self, instruction: &Instruction) -> Result<()> {
        let Instruction::Onnx { segment, inputs, outputs } = instruction else { return Ok(()) };
        let (shared, sizes, call, facts) = (self.shared, self.sizes, self.call, self.facts);
        // The outputs' buffers are taken out while the inputs' are read: no operand of a step shares a slot
        // with another's output.
        let take = |slots: &mut Vec<Vec<f32>>, slot: usize| std::mem::take(&mut slots[slot]);
        let mut taken: Vec<Vec<f32>> = outputs
            .iter()
            .map(|(value, _)| value.map_or_else(Vec::new, |v| take(self.slots, v.slot)))
            .collect();
        let mut open = Vec::new();
        let arguments = inputs.iter().map(|(given, id)| self.argument(*given, *id));
        let ran = arguments.collect::<Result<Vec<_>>>().and_then(|arguments| {
            shared.segments.run(*segment, &arguments, call, &mut |index, shape, data| {
                let found = outputs.get(index).zip(taken.get_mut(index));
                let ((value, id), buffer) = found.ok_or_else(|| wrong("it gives too much"))?;
                let fact = facts.get(*id).ok_or_else(|| wrong("an output has no type"))?;
                if data.dtype() != fact.dtype {
                    return Err(wrong("an output is of another type"));
                }
                onnx::check(fact, shape, call)?;
                let Some(value) = value else {
                    open.push((*id, shape.to_vec(), data.dtype(), data.buffer().to_vec()));
                    return Ok(());
                };
                let target = buffer.get_mut(..sizes.len(*value));
                let target = target.filter(|target| target.len() == data.buffer().len());
                target
                    .ok_or_else(|| wrong("a buffer is too small"))?
                    .copy_from_slice(data.buffer());
                Ok(())
            })
        });
        for ((value, _), buffer) in outputs.iter().zip(taken) {
            if let Some(value) = value {
                self.slots[value.slot] = buffer;
            }
        }
        for (id, shape, dtype, words) in open {
            self.open.set(id, &shape, Elements::of(dtype, &words));
        }
        ran
    }

    fn argument(&self, from: Given, id: OperandId) -> Result<TensorArg<'_>> {
        let name = |index: usize| self.inputs.get(index).map_or("", String::as_str);
        let dtype = self.facts.get(id).map_or(DType::F32, |fact| fact.dtype);
        let data = match from {
            Given::Ids(index) => Elements::I32(self.input(index)?),
            Given::Floats(index) => Elements::F32(given(self.call, name(index))?),
            Given::Value(value) => Elements::of(dtype, self.value(value)),
            Given::Open => {
                return self.open.get(id).ok_or_else(|| wrong("a value is not there"));
            }
        };
        Ok(TensorArg { shape: self.sizes.shape(id), data })
    }
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Backend, format!("a segment of ONNX Runtime: {message}"))
}
