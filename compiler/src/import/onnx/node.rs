//! A node with typed access to its attributes.

use super::constant::Constant;
use super::external::External;
use super::proto::{AttributeProto, GraphProto, NodeProto, attribute};
use crate::error::{At, Error, Result};

/// A node of the model.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub proto: &'a NodeProto,
    /// Version of its operator set.
    pub opset: i64,
}

impl<'a> Node<'a> {
    /// How it is called: its name, or its first output where it has none.
    pub fn name(&self) -> &'a str {
        match self.proto.name.as_str() {
            "" => self.proto.output.first().map_or("", String::as_str),
            name => name,
        }
    }

    /// The operator, with its domain where that is not ONNX's own.
    pub fn operator(&self) -> String {
        match self.proto.domain.as_str() {
            "" | "ai.onnx" => self.proto.op_type.clone(),
            domain => format!("{domain}.{}", self.proto.op_type),
        }
    }

    /// The name of an input; `None` where it is left out.
    pub fn input(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn find(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>> {
        let Some(found) = self.proto.attribute.iter().find(|a| a.name == name) else {
            return Ok(None);
        };
        // Files before IR version 2 leave the type out.
        if found.r#type != kind && found.r#type != 0 || !found.ref_attr_name.is_empty() {
            return Err(Error::format(format!("attribute {name:?} is of another type")));
        }
        Ok(Some(found))
    }

    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.find(name, attribute::INT)?.map(|a| a.i))
    }

    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    pub fn is_set(&self, name: &str) -> Result<bool> {
        Ok(self.int_or(name, 0)? != 0)
    }

    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.find(name, attribute::FLOAT)?.map_or(default, |a| a.f))
    }

    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        Ok(self.find(name, attribute::INTS)?.map(|a| a.ints.as_slice()))
    }

    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.find(name, attribute::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    pub fn text_or(&self, name: &str, default: &'a str) -> Result<&'a str> {
        let Some(found) = self.find(name, attribute::STRING)? else { return Ok(default) };
        let text = std::str::from_utf8(&found.s);
        text.map_err(|_| Error::format(format!("attribute {name:?} is not a text")))
    }

    pub fn tensor(&self, name: &str, external: &External) -> Result<Option<Constant>> {
        let Some(found) = self.find(name, attribute::TENSOR)? else { return Ok(None) };
        let tensor = found.t.as_deref();
        let tensor = tensor.ok_or_else(|| Error::format(format!("attribute {name:?} is empty")))?;
        Constant::read(tensor, external).at(format_args!("attribute {name:?}")).map(Some)
    }

    pub fn graph(&self, name: &str) -> Result<&'a GraphProto> {
        let found = self.find(name, attribute::GRAPH)?.and_then(|a| a.g.as_deref());
        found.ok_or_else(|| Error::format(format!("there is no graph {name:?}")))
    }

    /// Graphs within.
    pub fn graphs(&self) -> impl Iterator<Item = &'a GraphProto> {
        self.proto.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
    }
}
