//! Graphs within graphs: a condition that is known when the model is compiled chooses one.

use super::{Call, Operator};
use crate::error::{Error, Result};
use crate::import::onnx::constant::Data;
use crate::import::onnx::importer::{Importer, Item};

pub(super) const TABLE: &[(&str, Operator)] = &[("If", branch)];

fn branch<'a>(importer: &mut Importer<'a>, call: &Call<'a>) -> Result<Vec<Item>> {
    let holds = match call.get(0)? {
        Item::Constant(c) => match &c.data {
            Data::I64(values) if values.len() == 1 => values[0] != 0,
            _ => return Err(Error::format("its condition is not a truth value")),
        },
        _ => {
            let message = "its condition is not known when the model is compiled; an input that \
                           decides it, or a size, can be fixed with --fix";
            return Err(Error::unsupported(message));
        }
    };
    let graph = call.node.graph(if holds { "then_branch" } else { "else_branch" })?;
    importer.inner(graph, call.node.opset)
}
