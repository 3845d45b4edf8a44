//! Convolutions. Images have their channels last, and a line of a convolution along one axis is an
//! image of one line.

use limbeck_plan::{Activation, Conv2d, ConvTranspose2d, DepthwiseConv2d, Dim, Op, Window};

use super::layout::{known_axis, with_axes, without};
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Constant;
use crate::import::onnx::importer::{Importer, Item};
use crate::import::onnx::norm::channel_affine;

pub(super) const TABLE: &[(&str, Operator)] = &[("Conv", conv), ("ConvTranspose", transposed)];

/// The order of images: channels last.
pub(super) const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

/// An item as images `[batch, channels, h, w]`, and whether it had one axis for both sides.
pub(super) fn images(importer: &mut Importer<'_>, item: &Item) -> Result<(Item, bool)> {
    match importer.rank(item) {
        4 => Ok((item.clone(), false)),
        3 => Ok((with_axes(importer, item, &[2])?, true)),
        rank => Err(Error::unsupported(format!("images of {} axes", rank.saturating_sub(2)))),
    }
}

/// The result of an op on images with as many axes as its input.
pub(super) fn back(importer: &mut Importer<'_>, item: Item, line: bool) -> Result<Item> {
    if line { without(importer, &item, &[2]) } else { Ok(item) }
}

/// Groups of channels.
fn groups(call: &Call<'_>) -> Result<usize> {
    let given = call.node.int_or("group", 1)?;
    let found = usize::try_from(given).ok().filter(|n| *n > 0);
    found.ok_or_else(|| Error::format(format!("attribute \"group\" has the value {given}")))
}

/// Zeros that a weight of groups may be filled up with: 64 MiB.
const MAX_ZEROS: usize = 16 << 20;

/// The most that a window reaches, steps or spreads.
const MAX_SIDE: usize = 1 << 20;

/// Numbers for each side: of an attribute, of which a line has one.
pub(super) fn sides(given: Option<&[i64]>, line: bool, default: usize) -> Result<[usize; 2]> {
    let number = |v: i64| {
        let found = usize::try_from(v).ok().filter(|n| *n <= MAX_SIDE);
        found.ok_or_else(|| Error::format(format!("an attribute has the value {v}")))
    };
    match (given, line) {
        (None, _) => Ok([default, default]),
        (Some(&[w]), true) => Ok([default.min(1), number(w)?]),
        (Some(&[h, w]), false) => Ok([number(h)?, number(w)?]),
        (Some(given), _) => Err(Error::format(format!("{given:?} are not numbers of its sides"))),
    }
}

/// The window of a node over images of these sides.
pub(super) fn window(
    call: &Call<'_>,
    kernel: [usize; 2],
    line: bool,
    image: [&Dim; 2],
) -> Result<Window> {
    let node = &call.node;
    let positive = |name: &str| -> Result<[usize; 2]> {
        let found = sides(node.ints(name)?, line, 1)?;
        match found.contains(&0) {
            true => Err(Error::format(format!("attribute {name:?} has the value 0"))),
            false => Ok(found),
        }
    };
    let (stride, dilation) = (positive("strides")?, positive("dilations")?);
    let padding = match node.text_or("auto_pad", "NOTSET")? {
        "NOTSET" => match (node.ints("pads")?, line) {
            (None, _) => [0; 4],
            (Some(&[left, right]), true) => pads([0, left, 0, right])?,
            (Some(&[top, left, bottom, right]), false) => pads([top, left, bottom, right])?,
            (Some(given), _) => return Err(Error::format(format!("pads {given:?}"))),
        },
        "VALID" => [0; 4],
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            let mut padding = [0; 4];
            for axis in 0..2 {
                let reach = kernel[axis].saturating_sub(1).saturating_mul(dilation[axis]) + 1;
                let all = match (image[axis].as_const(), stride[axis]) {
                    (_, 1) => reach - 1,
                    (Some(n), stride) => {
                        let n = usize::try_from(n).unwrap_or(usize::MAX);
                        let places = n.div_ceil(stride).saturating_sub(1);
                        places.saturating_mul(stride).saturating_add(reach).saturating_sub(n)
                    }
                    _ => return Err(Error::unsupported(format!("{mode} of a size of the call"))),
                };
                let more = all.div_ceil(2);
                let (before, after) =
                    if mode == "SAME_UPPER" { (all - more, more) } else { (more, all - more) };
                (padding[axis], padding[axis + 2]) = (before, after);
            }
            padding
        }
        other => return Err(Error::format(format!("auto_pad {other:?}"))),
    };
    Ok(Window { image: [0, 0], kernel, stride, padding, dilation })
}

/// Refuses a window that is larger than an image of known sides and what pads it.
pub(super) fn check_fits(window: &Window, image: [&Dim; 2]) -> Result<()> {
    for (axis, side) in image.into_iter().enumerate() {
        let Some(n) = side.as_const() else { continue };
        let reach = (window.kernel[axis].saturating_sub(1)).saturating_mul(window.dilation[axis]);
        let padding = window.padding[axis].saturating_add(window.padding[axis + 2]);
        if n.saturating_add(padding as u64) <= reach as u64 {
            let message =
                format!("a window of {} is larger than its image, {n} and {padding}", reach + 1);
            return Err(Error::format(message));
        }
    }
    Ok(())
}

fn pads(given: [i64; 4]) -> Result<[usize; 4]> {
    let mut found = [0; 4];
    for (found, given) in found.iter_mut().zip(given) {
        *found = usize::try_from(given)
            .map_err(|_| Error::unsupported(format!("a padding of {given}")))?;
    }
    Ok(found)
}

/// Weight and bias of a convolution, `[outputs, inputs, kh, kw]`.
struct Weights {
    weight: Constant,
    bias: Option<Vec<f32>>,
}

fn weights(call: &Call<'_>, line: bool) -> Result<Weights> {
    let Item::Constant(weight) = call.get(1)? else {
        return Err(Error::unsupported("a weight that is not constant"));
    };
    let mut shape = weight.shape.clone();
    if line && shape.len() == 3 {
        shape.insert(2, 1);
    }
    if shape.len() != 4 || weight.len() == 0 {
        return Err(Error::format(format!("a weight of the shape {:?}", weight.shape)));
    }
    weight.as_floats()?;
    if let Some(given) = call.node.ints("kernel_shape")?
        && sides(Some(given), line, 1)? != shape[2..]
    {
        let message = format!("kernel_shape {given:?} is not that of a weight {:?}", weight.shape);
        return Err(Error::format(message));
    }
    let bias = call.floats(2)?.map(<[f32]>::to_vec);
    Ok(Weights { weight: weight.reshaped(shape)?, bias })
}

pub(super) fn conv(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (x, line) = images(importer, call.get(0)?)?;
    let mut weights = weights(call, line)?;
    let norm = folded_norm(importer, call, &mut weights)?;
    let Weights { weight, bias } = weights;
    let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
    let kernel = [weight.shape[2], weight.shape[3]];
    let groups = groups(call)?;
    let x = known_axis(importer, &x, 1, groups.saturating_mul(inputs))?;
    let shape = importer.shape(&x);
    let window = window(call, kernel, line, [&shape[2], &shape[3]])?;
    check_fits(&window, [&shape[2], &shape[3]])?;
    let channels = shape[1].as_const().and_then(|n| usize::try_from(n).ok());
    if channels != groups.checked_mul(inputs) || !outputs.is_multiple_of(groups) {
        let message = format!("{} channels meet a weight of {groups} x {inputs}", shape[1]);
        return Err(Error::format(message));
    }
    if let Some(bias) = bias.as_ref().filter(|b| b.len() != outputs) {
        return Err(Error::format(format!("{} biases of {outputs} outputs", bias.len())));
    }
    let operand = importer.operand(&x, &CHANNELS_LAST)?;
    let x = importer.value(operand)?;
    let activation = Activation::Identity;
    let has_bias = bias.is_some();
    let (op, matrix) = if inputs == 1 && outputs == groups && groups > 1 {
        let weight = weight.permuted(&[2, 3, 1, 0]);
        let matrix = importer.matrix(weight.as_floats()?.to_vec(), kernel[0] * kernel[1]);
        let op = DepthwiseConv2d { window, bias: has_bias, activation };
        (Op::DepthwiseConv2d(op), matrix)
    } else {
        let weight = weight.permuted(&[0, 2, 3, 1]);
        let matrix = importer.matrix(weight.as_floats()?.to_vec(), outputs);
        let op = Conv2d { window, groups, bias: has_bias, activation, residual: false };
        (Op::Conv2d(op), matrix)
    };
    let mut operands = vec![x, matrix];
    operands.extend(bias.map(|bias| importer.matrix(bias, 1)));
    let found = importer.laid(op, &operands, CHANNELS_LAST.to_vec())?;
    let found = back(importer, found, line)?;
    if let Some(norm) = norm {
        importer.finish(norm, found.clone());
    }
    Ok(vec![found])
}

/// Scales the weights by the batch norm that alone reads the convolution's result: gives its node.
fn folded_norm<'a>(
    importer: &mut Importer<'a>,
    call: &Call<'_>,
    weights: &mut Weights,
) -> Result<Option<&'a crate::import::onnx::proto::NodeProto>> {
    let output = call.node.proto.output.first().map_or("", String::as_str);
    let Some(norm) = importer.only_reader(output, "BatchNormalization") else { return Ok(None) };
    let Some((scale, shift)) = channel_affine(importer, norm)? else { return Ok(None) };
    let outputs = weights.weight.shape[0];
    if scale.len() != outputs {
        return Ok(None);
    }
    let values = weights.weight.as_floats()?;
    let each = values.len() / outputs.max(1);
    let rows = values.chunks_exact(each.max(1)).zip(&scale);
    let scaled: Vec<f32> =
        rows.flat_map(|(row, s)| row.iter().map(move |v| (f64::from(*v) * s) as f32)).collect();
    weights.weight = Constant::floats(weights.weight.shape.clone(), scaled);
    let bias = weights.bias.take().unwrap_or_else(|| vec![0.0; outputs]);
    let moved = bias.iter().zip(scale.iter().zip(&shift));
    weights.bias = Some(moved.map(|(b, (s, t))| (f64::from(*b) * s + t) as f32).collect());
    Ok(Some(norm))
}

fn transposed(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (x, line) = images(importer, call.get(0)?)?;
    let Weights { weight, bias } = weights(call, line)?;
    let groups = groups(call)?;
    let kernel = [weight.shape[2], weight.shape[3]];
    let x = known_axis(importer, &x, 1, weight.shape[0])?;
    let shape = importer.shape(&x);
    let mut window = window(call, kernel, line, [&shape[2], &shape[3]])?;
    let output_padding = sides(call.node.ints("output_padding")?, line, 0)?;
    let pad = call.node.text_or("auto_pad", "NOTSET")?;
    if let Some(wanted) = call.node.ints("output_shape")? {
        let all =
            cut(&window, sides(Some(wanted), line, 1)?, [&shape[2], &shape[3]], output_padding)?;
        // The larger half is cut off the end with SAME_UPPER, else off the beginning.
        let small = all.map(|all| all / 2);
        let large = [all[0] - small[0], all[1] - small[1]];
        let [before, after] = if pad == "SAME_UPPER" { [small, large] } else { [large, small] };
        window.padding = [before[0], before[1], after[0], after[1]];
    } else if pad.starts_with("SAME") {
        return Err(Error::unsupported("a transposed convolution with auto_pad"));
    }
    let inputs = weight.shape[0];
    let each = weight.shape[1];
    if shape[1].as_const() != Some(inputs as u64) || !inputs.is_multiple_of(groups) {
        return Err(Error::format(format!("{} channels meet a weight of {inputs}", shape[1])));
    }
    let outputs = each.checked_mul(groups).ok_or_else(|| Error::format("too many outputs"))?;
    let taps = kernel[0] * kernel[1];
    // [C, N / groups, kh kw] to [kh kw, N, C], zeros between groups.
    let total = taps.checked_mul(outputs).and_then(|n| n.checked_mul(inputs));
    // What is not stored is bounded, so that a small file does not ask for much memory.
    let stored = weight.len();
    let total = total.filter(|n| *n <= stored.saturating_add(MAX_ZEROS));
    let total = total.ok_or_else(|| Error::unsupported("a weight of so many groups"))?;
    let mut rows = vec![0.0f32; total];
    for (at, v) in weight.as_floats()?.iter().enumerate() {
        let (tap, output, input) = (at % taps, at / taps % each, at / taps / each);
        let output = input / (inputs / groups) * each + output;
        rows[(tap * outputs + output) * inputs + input] = *v;
    }
    let Window { stride, padding, dilation, .. } = window;
    let has_bias = bias.is_some();
    let op = ConvTranspose2d { kernel, stride, padding, dilation, output_padding, bias: has_bias };
    let operand = importer.operand(&x, &CHANNELS_LAST)?;
    let mut operands = vec![importer.value(operand)?, importer.matrix(rows, taps * outputs)];
    operands.extend(bias.map(|bias| importer.matrix(bias, 1)));
    let found = importer.laid(Op::ConvTranspose2d(op), &operands, CHANNELS_LAST.to_vec())?;
    Ok(vec![back(importer, found, line)?])
}

/// What is cut off of each side so that the result has these.
fn cut(
    window: &Window,
    wanted: [usize; 2],
    image: [&Dim; 2],
    more: [usize; 2],
) -> Result<[usize; 2]> {
    let mut cut = [0; 2];
    for axis in 0..2 {
        let size = image[axis].as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let size =
            size.ok_or_else(|| Error::unsupported("an output_shape of a size of the call"))?;
        let reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        let all = ((size - 1) * window.stride[axis] + reach + more[axis]).checked_sub(wanted[axis]);
        cut[axis] = all.ok_or_else(|| Error::unsupported("an output_shape that is larger"))?;
    }
    Ok(cut)
}
