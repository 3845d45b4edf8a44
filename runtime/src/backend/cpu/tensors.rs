//! Instructions on tensors.

use limbeck_kernels as kernels;
use limbeck_kernels::{ConvTranspose2dArgs, Elements, ElementsMut, TensorArg, TensorOut};
use limbeck_plan::{DType, Dim, OperandId, Window};

use super::run::{Runner, filled};
use crate::backend::lower::{Ids, Instruction, Output, Source};
use crate::backend::slots::Value;
use crate::error::{Error, ErrorKind, Result};

impl Runner<'_> {
    /// Copies the tensors that the caller gives to where they live.
    pub(super) fn take_tensors(&mut self, tensors: &[Output]) -> Result<()> {
        for Output { name, operand, value } in tensors {
            let given = self.call.tensor(name)?;
            let fits = given.shape == self.sizes.shape(*operand);
            let words = given.data.buffer();
            let target = self.slots[value.slot].get_mut(..words.len()).filter(|_| fits);
            let target = target.ok_or_else(|| {
                let message = format!("tensor {name:?} of {:?} does not fit", given.shape);
                Error::new(ErrorKind::InvalidInput, message)
            })?;
            target.copy_from_slice(words);
        }
        Ok(())
    }

    /// A reshape only checks: what it gives lies where what it takes does.
    pub(super) fn reshape(&self, x: Value, out: Value) -> Result<()> {
        let (from, to) = (self.sizes.len(x), self.sizes.len(out));
        if from == to {
            return Ok(());
        }
        let message = format!("{from} elements do not go into a shape of {to}");
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// The ids that an embedding looks up.
    pub(super) fn ids(&self, ids: Ids) -> Result<&[i32]> {
        match ids {
            Ids::Input(index) => self.input(index),
            Ids::Value(value) => Ok(bytemuck::cast_slice(self.value(value))),
        }
    }

    /// A window over the images of a tensor, where it leaves their sides open.
    pub(super) fn window(&self, window: &Window, sides: Option<OperandId>) -> Window {
        match sides {
            Some(operand) => window.over(self.sizes.sides(operand)),
            None => window.clone(),
        }
    }

    pub(super) fn conv_transpose2d(
        &mut self,
        instruction: &Instruction,
        out: &mut [f32],
    ) -> Result<()> {
        let Instruction::ConvTranspose2d { params, x, weight, bias, shapes, .. } = instruction
        else {
            return Ok(());
        };
        let (shared, sizes) = (self.shared, self.sizes);
        let args = ConvTranspose2dArgs {
            params,
            x: filled(self.slots, sizes, *x),
            shape: sizes.shape(shapes[0]),
            w: shared.weight(*weight)?,
            bias: bias.map(|id| shared.vector(id)).transpose()?,
            out,
            out_shape: sizes.shape(shapes[1]),
        };
        let (kernels, pool) = (&shared.kernels, &*shared.pool);
        Ok(kernels::conv_transpose2d(kernels, pool, self.linear, self.tensors, args)?)
    }

    pub(super) fn tensor(&mut self, instruction: &Instruction, out: &mut [f32]) -> Result<()> {
        let Instruction::Tensor { op, inputs, shape, .. } = instruction else { return Ok(()) };
        let (shared, sizes, call) = (self.shared, self.sizes, self.call);
        let dtype = |operand: OperandId| self.facts.get(operand).map_or(DType::F32, |f| f.dtype);
        let argument = |(source, operand): &(Source, OperandId)| -> Result<TensorArg<'_>> {
            let words = match source {
                Source::Value(value) => filled(self.slots, sizes, *value),
                Source::Weight(id) => shared.vector(*id)?,
            };
            Ok(TensorArg {
                shape: sizes.shape(*operand),
                data: Elements::of(dtype(*operand), words),
            })
        };
        let arguments = inputs.iter().map(argument).collect::<Result<Vec<_>>>()?;
        let data = ElementsMut::of(dtype(*shape), out);
        let out = TensorOut { shape: sizes.shape(*shape), data };
        let size = |dim: &Dim| call.size(dim).and_then(|n| usize::try_from(n).ok());
        let (kernels, pool) = (&shared.kernels, &*shared.pool);
        match kernels::tensor(kernels, pool, self.tensors, op, &size, &arguments, out)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Backend, "it is not an op on tensors")),
        }
    }
}
