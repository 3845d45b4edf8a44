//! Ops on images.

use limbeck_kernels::resize_place;
use limbeck_plan::{Patches, Pixels, QUANT_BLOCK, Resize, Window};

use super::linear::{Work, WorkPart, dispatch};
use super::tensors::{Operand, count, wrong};
use super::{LANES, flag, number};
use crate::backend::lower::Instruction;
use crate::backend::slots::Value;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn patches(rec: &mut Recorder<'_>, p: &Patches, from: usize, out: Value) -> Result<()> {
    let Patches { channels, height, width, patch, lead } = *p;
    given(rec, from, [channels, height, width, patch, lead], out)
}

pub(super) fn pixels(rec: &mut Recorder<'_>, p: &Pixels, from: usize, out: Value) -> Result<()> {
    given(rec, from, [p.channels, p.height, p.width, 1, 0], out)
}

fn given(rec: &mut Recorder<'_>, from: usize, image: [usize; 5], out: Value) -> Result<()> {
    let count = rec.sizes.len(out);
    let start = rec.layout.inputs.get(from).copied().unwrap_or(0);
    let words: Vec<u32> = [count, start].into_iter().chain(image).map(|size| size as u32).collect();
    let out = rec.value(out)?;
    rec.dispatch(Shader::Given, &words, &[&rec.call(), &out], count.div_ceil(LANES))
}

/// A window over images whose sides are known, as shaders take it: channels, sides, sides of the result,
/// then what it sees and how it moves.
fn words(window: &Window, channels: usize) -> Result<[u32; 13]> {
    let Some([down, across]) = window.out() else {
        return Err(Error::new(ErrorKind::InvalidInput, "a window does not fit its image"));
    };
    let ([height, width], [top, left, ..]) = (window.image, window.padding);
    let sides = [channels, height, width, down, across];
    let sizes = [sides.as_slice(), &window.kernel, &window.stride, &[top, left], &window.dilation];
    let mut found = [0; 13];
    found.iter_mut().zip(sizes.concat()).for_each(|(word, size)| *word = size as u32);
    Ok(found)
}

/// A window over the images of a tensor, where it leaves their sides open.
fn over(rec: &Recorder<'_>, window: &Window, sides: Option<usize>) -> Window {
    sides.map_or_else(|| window.clone(), |operand| window.over(rec.sizes.sides(operand)))
}

pub(super) fn conv2d(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::Conv2d { params: p, x, sides, weight, bias, residual, out } = instruction
    else {
        return Ok(());
    };
    let window = words(&over(rec, &p.window, *sides), x.cols)?;
    let count = rec.sizes.len(*out);
    let (input, target) = (rec.value(*x)?, rec.value(*out)?);
    let w = rec.shared.weights.get(*weight)?;
    if p.groups > 1 {
        let blocks = w.cols.div_ceil(QUANT_BLOCK);
        let flags = flag(bias.is_some(), 1) | flag(residual.is_some(), 2);
        let sizes = [count, w.cols, blocks, w.rows, p.groups].map(|size| size as u32);
        let words = [&sizes[..], &[number(p.activation), flags], &window].concat();
        let (bias, residual) = (rec.vector_or_none(*bias)?, rec.value_or_none(*residual)?);
        let bindings = [w.whole()?, &input, &bias, &residual, &target];
        return rec.dispatch(
            Shader::GroupedConv(w.format),
            &words,
            &bindings,
            count.div_ceil(LANES),
        );
    }
    let bias = bias.map(|id| rec.shared.weights.vector(id).cloned()).transpose()?;
    let residual = residual.map(|value| rec.value(value)).transpose()?;
    let [channels, height, width, down, across, _, kernel, rest @ ..] = window;
    let mut seen = [0; 12];
    seen[..6].copy_from_slice(&[channels, height, width, down, across, kernel]);
    seen[6..].copy_from_slice(&rest);
    let work = Work {
        weight: *weight,
        tokens: count / w.rows.max(1),
        share: 1,
        x: &input,
        norm: None,
        bias,
        residual,
        factors: None,
        activation: p.activation,
        gated: false,
        last: true,
        precise: false,
        out: &target,
        part: WorkPart::Window(seen),
    };
    dispatch(rec, work)
}

/// What [`windows`] computes.
#[derive(Clone, Copy)]
pub(super) enum What {
    Depthwise { weight: usize, bias: Option<usize>, activation: u32 },
    Largest,
    Mean { count_padding: bool },
}

pub(super) fn windows(
    rec: &mut Recorder<'_>,
    what: What,
    (window, sides): (&Window, Option<usize>),
    x: Value,
    out: Value,
) -> Result<()> {
    let count = rec.sizes.len(out);
    let (what, activation, flags, weight, bias) = match what {
        What::Depthwise { weight, bias, activation } => {
            (0, activation, flag(bias.is_some(), 1), Some(weight), bias)
        }
        What::Largest => (1, 0, 0, None, None),
        What::Mean { count_padding } => (2, 0, flag(count_padding, 2), None, None),
    };
    let window = words(&over(rec, window, sides), x.cols)?;
    let words = [&[count as u32, what, activation, flags][..], &window].concat();
    let (weight, bias) = (rec.vector_or_none(weight)?, rec.vector_or_none(bias)?);
    let (x, out) = (rec.value(x)?, rec.value(out)?);
    rec.dispatch(Shader::Windows, &words, &[&x, &weight, &bias, &out], count.div_ceil(LANES))
}

pub(super) fn resize(
    rec: &mut Recorder<'_>,
    p: &Resize,
    x: &Operand<'_>,
    out: &Operand<'_>,
) -> Result<()> {
    let (&[_, height, width, channels], &[_, down, across, _]) = (x.shape, out.shape) else {
        return Err(wrong("a resized tensor is not of images"));
    };
    let count = count(out.shape);
    if count == 0 {
        return Ok(());
    }
    let mut places = Vec::new();
    for (axis, from, to) in [(0, height, down), (1, width, across)] {
        for at in 0..to {
            let place = resize_place(p, axis, at, from, to);
            places.extend([place.first as u32, place.second as u32, place.share.to_bits()]);
        }
    }
    let places = rec.constants(&places)?;
    let sizes = [count, channels, height, width, down, across].map(|size| size as u32);
    let bindings = [&x.slice, &places, &out.slice];
    rec.dispatch(Shader::Resize, &sizes, &bindings, count.div_ceil(LANES))
}

pub(super) fn conv_transpose(rec: &mut Recorder<'_>, instruction: &Instruction) -> Result<()> {
    let Instruction::ConvTranspose2d { params: p, x, weight, bias, shapes, out } = instruction
    else {
        return Ok(());
    };
    let (input, target): (Value, Value) = (*x, *out);
    let (&[_, height, width, _], &[_, down, across, outputs]) =
        (rec.sizes.shape(shapes[0]), rec.sizes.shape(shapes[1]))
    else {
        return Err(wrong("a transposed convolution is not of images"));
    };
    let w = rec.shared.weights.get(*weight)?;
    let count = rec.sizes.len(target);
    let sizes = [count, w.cols, w.cols.div_ceil(QUANT_BLOCK), outputs, height, width, down, across];
    let window = [p.kernel, p.stride, [p.padding[0], p.padding[1]], p.dilation].concat();
    let words: Vec<u32> = sizes
        .into_iter()
        .chain(window)
        .chain([usize::from(bias.is_some())])
        .map(|size| size as u32)
        .collect();
    let bias = rec.vector_or_none(*bias)?;
    let (x, out) = (rec.value(input)?, rec.value(target)?);
    let bindings = [w.whole()?, &x, &bias, &out];
    rec.dispatch(Shader::ConvTranspose(w.format), &words, &bindings, count.div_ceil(LANES))
}
