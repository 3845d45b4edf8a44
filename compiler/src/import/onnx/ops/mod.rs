//! The operators: what each becomes in the graph.

mod contrib;
mod control;
mod conv;
mod elementwise;
mod images;
mod layout;
mod norm;
mod order;
mod parts;
mod products;
mod quant;
mod quant_linear;
mod recurrent;
mod reduce;
mod rope;
mod shape;
mod triangle;

use super::importer::{Importer, Item};
use super::node::Node;
use super::sizes::{Size, Sizes};
use crate::error::{Error, Result};

/// A node at hand, with what its inputs stand for.
pub(super) struct Call<'a> {
    pub node: Node<'a>,
    pub inputs: Vec<Option<Item>>,
}

/// Imports a node: gives its outputs, of which the last may be missing where they are not used.
pub(super) type Operator = for<'a> fn(&mut Importer<'a>, &Call<'a>) -> Result<Vec<Item>>;

/// The operator of a node; `None` where there is none.
pub(super) fn find(node: &Node<'_>) -> Option<Operator> {
    let tables = match node.proto.domain.as_str() {
        "" | "ai.onnx" => OWN,
        "com.microsoft" => MICROSOFT,
        _ => return None,
    };
    let mut rows = tables.iter().copied().flatten();
    rows.find(|(name, _)| *name == node.proto.op_type).map(|(_, operator)| *operator)
}

/// Of ONNX's own domain.
const OWN: &[&[(&str, Operator)]] = &[
    control::TABLE,
    conv::TABLE,
    elementwise::TABLE,
    images::TABLE,
    layout::TABLE,
    norm::TABLE,
    order::TABLE,
    parts::TABLE,
    products::TABLE,
    quant::TABLE,
    quant_linear::TABLE,
    recurrent::TABLE,
    reduce::TABLE,
    shape::TABLE,
    triangle::TABLE,
];

/// Of ONNX Runtime's. Older exporters put quantised operators there too.
const MICROSOFT: &[&[(&str, Operator)]] =
    &[contrib::TABLE, quant::TABLE, quant_linear::TABLE, quant_linear::MICROSOFT, rope::TABLE];

impl Call<'_> {
    /// An input that is there.
    pub fn get(&self, index: usize) -> Result<&Item> {
        let found = self.optional(index);
        found.ok_or_else(|| Error::format(format!("input {index} is missing")))
    }

    pub fn optional(&self, index: usize) -> Option<&Item> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Integers that an input holds or that are computed from sizes of the call.
    pub fn sizes(&self, index: usize) -> Result<Option<Vec<Size>>> {
        let found = match self.optional(index) {
            None => return Ok(None),
            Some(Item::Constant(c)) => Sizes::of(c).map(|sizes| sizes.values),
            Some(Item::Sizes(sizes)) => Some(sizes.values.clone()),
            Some(Item::Value(_)) => None,
        };
        let message = "its input {} depends on values of the call, not on sizes alone";
        found.map(Some).ok_or_else(|| Error::unsupported(message.replace("{}", &index.to_string())))
    }

    /// Integers that an input holds.
    pub fn integers(&self, index: usize) -> Result<Option<Vec<i64>>> {
        let Some(sizes) = self.sizes(index)? else { return Ok(None) };
        let known = sizes.into_iter().map(|size| match size {
            Size::Known(n) => Ok(n),
            Size::Dim(dim) => {
                Err(Error::unsupported(format!("its input {index} has the size {dim}")))
            }
        });
        known.collect::<Result<_>>().map(Some)
    }

    /// Integers of an attribute or, in later versions, of an input.
    pub fn integers_or(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>> {
        match self.node.ints(name)? {
            Some(found) => Ok(Some(found.to_vec())),
            None => self.integers(index),
        }
    }

    /// Floats that an input holds.
    pub fn floats(&self, index: usize) -> Result<Option<&[f32]>> {
        match self.optional(index) {
            None => Ok(None),
            Some(Item::Constant(c)) => c.as_floats().map(Some),
            Some(_) => Err(Error::unsupported(format!("its input {index} is not constant"))),
        }
    }
}

/// An axis of `rank`, which counts from the end where it is negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let found = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = found.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank);
    found.ok_or_else(|| Error::format(format!("axis {axis} is none of {rank}")))
}

/// Axes of `rank`, ascending, each once.
pub(super) fn axes(given: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut found = given.iter().map(|a| axis(*a, rank)).collect::<Result<Vec<_>>>()?;
    found.sort_unstable();
    if found.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::format(format!("axes {given:?} of {rank} come twice")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `docs/onnx.md` lists each operator, and no other.
    #[test]
    fn all_operators_are_listed_in_the_docs() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/onnx.md");
        let docs = std::fs::read_to_string(docs).expect("docs/onnx.md");
        for (tables, mark) in [(OWN, "<!-- own -->"), (MICROSOFT, "<!-- microsoft -->")] {
            let list = docs.split(mark).nth(1).and_then(|rest| rest.split("<!-- end -->").next());
            let list = list.unwrap_or_else(|| panic!("no {mark}")).trim().trim_end_matches('.');
            let listed: BTreeSet<&str> = list.split(',').map(str::trim).collect();
            let known: BTreeSet<&str> = tables.iter().copied().flatten().map(|row| row.0).collect();
            assert_eq!(listed, known, "{mark}");
        }
    }
}
