//! Pools, and images in other sizes.

use limbeck_plan::{AveragePool2d, Coordinates, Dim, Interpolation, MaxPool2d, Op, Resize, Window};

use super::conv::{CHANNELS_LAST, back, check_fits, images, sides, window};
use super::layout::into_shape;
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item, Laid};
use crate::import::onnx::sizes::Size;

pub(super) const TABLE: &[(&str, Operator)] = &[
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("Resize", resize),
    ("DepthToSpace", depth_to_space),
    ("SpaceToDepth", space_to_depth),
];

fn pool_window(importer: &Importer<'_>, call: &Call<'_>, x: &Item, line: bool) -> Result<Window> {
    let kernel = call.node.ints("kernel_shape")?;
    let kernel = kernel.ok_or_else(|| Error::format("it has no kernel_shape"))?;
    let kernel = sides(Some(kernel), line, 1)?;
    if kernel.contains(&0) {
        return Err(Error::format("attribute \"kernel_shape\" has the value 0"));
    }
    let shape = importer.shape(x);
    let mut window = window(call, kernel, line, [&shape[2], &shape[3]])?;
    if call.node.is_set("ceil_mode")? {
        for axis in 0..2 {
            let size = shape[2 + axis].as_const();
            let size = size.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            window.padding[axis + 2] += more_padding(&window, axis, size)?;
        }
    }
    check_fits(&window, [&shape[2], &shape[3]])?;
    Ok(window)
}

/// What is added after an axis, of a known size or of one of the call, so that there is a place more for what is
/// left over, as long as it does not begin in what follows the axis.
fn more_padding(window: &Window, axis: usize, size: Option<usize>) -> Result<usize> {
    let reach = (window.kernel[axis].max(1) - 1) * window.dilation[axis] + 1;
    let (stride, [before, after]) =
        (window.stride[axis], [window.padding[axis], window.padding[axis + 2]]);
    let Some(size) = size else {
        if after + stride > reach {
            return Err(Error::unsupported("ceil_mode of a size of the call and such a window"));
        }
        return Ok(stride - 1);
    };
    let within = size.saturating_add(before);
    let all = within.saturating_add(after);
    if all < reach {
        // One place, of a window that begins within all that there is.
        return Ok(if reach - all < stride { reach - all } else { 0 });
    }
    let (places, left) = ((all - reach) / stride + 1, (all - reach) % stride);
    let begins = places.saturating_mul(stride);
    Ok(if left > 0 && begins < within { stride - left } else { 0 })
}

/// The images of a pool, and whether they had one axis for both sides.
fn pooled_images(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<(Item, bool)> {
    let (x, line) = images(importer, call.get(0)?)?;
    match importer.shape(&x)[1].as_const() {
        Some(_) => Ok((x, line)),
        None => Err(Error::unsupported("a pool of channels that are not known")),
    }
}

fn max_pool(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    if call.node.proto.output.len() > 1 {
        return Err(Error::unsupported("a pool that gives indices"));
    }
    let (x, line) = pooled_images(importer, call)?;
    let window = pool_window(importer, call, &x, line)?;
    let operand = importer.operand(&x, &CHANNELS_LAST)?;
    let x = importer.value(operand)?;
    let op = Op::MaxPool2d(MaxPool2d { window });
    let found = importer.laid(op, &[x], CHANNELS_LAST.to_vec())?;
    Ok(vec![back(importer, found, line)?])
}

fn average_pool(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (x, line) = pooled_images(importer, call)?;
    let window = pool_window(importer, call, &x, line)?;
    let count_padding = call.node.is_set("count_include_pad")?;
    if count_padding && call.node.is_set("ceil_mode")? {
        return Err(Error::unsupported("a mean of padding with ceil_mode"));
    }
    let operand = importer.operand(&x, &CHANNELS_LAST)?;
    let op = Op::AveragePool2d(AveragePool2d { window, count_padding });
    let found = importer.apply(op, vec![operand], CHANNELS_LAST.to_vec())?;
    Ok(vec![back(importer, found, line)?])
}

fn resize(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let node = &call.node;
    let (x, line) = images(importer, call.get(0)?)?;
    let coordinates = match node.text_or("coordinate_transformation_mode", "half_pixel")? {
        "asymmetric" => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        other => return Err(Error::unsupported(format!("coordinates {other:?}"))),
    };
    let nearest = node.text_or("nearest_mode", "round_prefer_floor")?;
    let interpolation = match (node.text_or("mode", "nearest")?, nearest) {
        ("linear", _) => Interpolation::Linear,
        ("nearest", "round_prefer_floor") => Interpolation::NearestFloorHalf,
        ("nearest", "round_prefer_ceil") => Interpolation::NearestCeilHalf,
        ("nearest", "floor") => Interpolation::NearestFloor,
        ("nearest", "ceil") => Interpolation::NearestCeil,
        (mode, _) => return Err(Error::unsupported(format!("interpolation {mode:?}"))),
    };
    if node.is_set("antialias")?
        || node.text_or("keep_aspect_ratio_policy", "stretch")? != "stretch"
    {
        return Err(Error::unsupported("antialiasing or a kept aspect ratio"));
    }
    let shape = importer.shape(&x);
    let rank = if line { 3 } else { 4 };
    let along = match node.ints("axes")? {
        Some(given) => given.iter().map(|a| super::axis(*a, rank)).collect::<Result<Vec<_>>>()?,
        None => (0..rank).collect(),
    };
    // Of the images: a line's axes but the first two are one further.
    let place = |axis: usize| if line && axis == 2 { 3 } else { axis };
    let sizes = call.sizes(3)?.filter(|sizes| !sizes.is_empty());
    let factors = if sizes.is_some() { None } else { call.floats(2)? };
    let (mut to, mut scales) = (shape.clone(), [1.0f32; 4]);
    for (i, axis) in along.iter().enumerate() {
        let axis = place(*axis);
        match (&sizes, factors) {
            (Some(sizes), _) => {
                let size = sizes.get(i).and_then(Size::dim);
                to[axis] = size.ok_or_else(|| Error::format("a size is missing or negative"))?;
            }
            (None, Some(factors)) => {
                let factor = factors.get(i).copied().filter(|f| f.is_finite() && *f > 0.0);
                let factor =
                    factor.ok_or_else(|| Error::format("a scale is missing or not > 0"))?;
                scales[axis] = factor;
                to[axis] = scaled(&shape[axis], factor)?;
            }
            _ => return Err(Error::format("it has neither scales nor sizes")),
        }
    }
    if to[..2] != shape[..2] {
        return Err(Error::unsupported("batch or channels in another size"));
    }
    let scales = sizes.is_none().then_some([scales[2], scales[3]]);
    let [height, width] = [to[2].clone(), to[3].clone()];
    let op = Op::Resize(Resize { sides: [height, width], scales, interpolation, coordinates });
    let operand = importer.operand(&x, &CHANNELS_LAST)?;
    let found = importer.apply(op, vec![operand], CHANNELS_LAST.to_vec())?;
    Ok(vec![back(importer, found, line)?])
}

/// A size times a factor, rounded down.
fn scaled(size: &Dim, factor: f32) -> Result<Dim> {
    if let Some(n) = size.as_const() {
        return Ok(Dim::Const((n as f64 * f64::from(factor)).floor() as u64));
    }
    let whole = |v: f32| (v.fract() == 0.0 && (1.0..65_536.0).contains(&v)).then_some(v as u64);
    match (whole(factor), whole(1.0 / factor)) {
        (Some(n), _) => Ok(size.clone().times(n)),
        (_, Some(n)) => Ok(size.clone().over(n)),
        _ => Err(Error::unsupported(format!("a size of the call times {factor}"))),
    }
}

fn block(importer: &Importer<'_>, call: &Call<'_>) -> Result<(Vec<Dim>, u64)> {
    let shape = importer.shape(call.get(0)?);
    let size = call
        .node
        .int("blocksize")?
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| (1..=1 << 15).contains(n));
    match (size, shape.len()) {
        (Some(size), 4) => Ok((shape, size)),
        _ => Err(Error::format("it is not of images, or has no blocksize")),
    }
}

/// The axes of a value in another order, as the model sees them.
fn turn(item: Item, order: &[usize]) -> Item {
    match item {
        Item::Constant(c) => Item::Constant(c.permuted(order)),
        Item::Value(laid) => {
            let now = |axis: &usize| order.iter().position(|from| from == axis).unwrap_or(0);
            Item::Value(Laid { value: laid.value, order: laid.order.iter().map(now).collect() })
        }
        item => item,
    }
}

fn depth_to_space(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (shape, b) = block(importer, call)?;
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| shape[i].clone());
    let depth = c.over(b * b);
    let b_dim = || Dim::Const(b);
    let columns_first = call.node.text_or("mode", "DCR")? == "DCR";
    let (dims, order) = if columns_first {
        (vec![n.clone(), b_dim(), b_dim(), depth.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2])
    } else {
        (vec![n.clone(), depth.clone(), b_dim(), b_dim(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3])
    };
    let split = into_shape(importer, call.get(0)?, dims)?;
    let found = turn(split, &order);
    Ok(vec![into_shape(importer, &found, vec![n, depth, h.times(b), w.times(b)])?])
}

fn space_to_depth(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let (shape, b) = block(importer, call)?;
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| shape[i].clone());
    let (down, across) = (h.over(b), w.over(b));
    let dims =
        vec![n.clone(), c.clone(), down.clone(), Dim::Const(b), across.clone(), Dim::Const(b)];
    let split = into_shape(importer, call.get(0)?, dims)?;
    let found = turn(split, &[0, 3, 5, 1, 2, 4]);
    Ok(vec![into_shape(importer, &found, vec![n, c.times(b * b), down, across])?])
}
