//! Triangles of matrices.

use limbeck_plan::{Binary, DType, Dim, MapStep, Op, Range};

use super::elementwise::map;
use super::layout::with_axes;
use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::importer::{Importer, Item, plain};

pub(super) const TABLE: &[(&str, Operator)] = &[("Trilu", triangle)];

/// The elements on one side of a diagonal, and zeros.
fn triangle(importer: &mut Importer<'_>, call: &Call<'_>) -> Result<Vec<Item>> {
    let item = call.get(0)?;
    let fact = importer.fact(item);
    let [.., rows, columns] = fact.shape.as_slice() else {
        return Err(Error::format(format!("{fact} is not matrices")));
    };
    let k = match call.integers(1)?.as_deref() {
        None => 0,
        Some(&[k]) => k.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
        Some(_) => return Err(Error::format("its diagonal is not one number")),
    };
    let zero = match fact.dtype {
        DType::F32 => MapStep::Float(0.0),
        DType::I32 => MapStep::Integer(0),
    };
    let rows = range(importer, rows)?;
    let (rows, columns) = (with_axes(importer, &rows, &[1])?, range(importer, columns)?);
    // A place's distance from the diagonal, to the right.
    let steps = vec![
        MapStep::Input(0),
        MapStep::Input(1),
        MapStep::Input(2),
        MapStep::Binary(Binary::Sub, 2, 1),
        MapStep::Integer(k),
        match call.node.int_or("upper", 1)? != 0 {
            true => MapStep::Binary(Binary::Le, 4, 3),
            false => MapStep::Binary(Binary::Le, 3, 4),
        },
        zero,
        MapStep::Select(5, 0, 6),
    ];
    Ok(vec![map(importer, &[item, &rows, &columns], steps)?])
}

fn range(importer: &mut Importer<'_>, count: &Dim) -> Result<Item> {
    let op = Op::Range(Range { count: count.clone(), start: 0, step: 1 });
    importer.laid(op, &[], plain(1))
}
