//! The tensors of a checkpoint as a builder sees them: names and shapes, ticked off as they are
//! used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use limbeck_graph::TensorExpr;

use crate::{Error, ErrorKind};

/// Shape and storage of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, outermost first, as Hugging Face orders them.
    pub shape: Vec<usize>,
    /// How it is stored: `f32`, `bf16`, `Q4_1`, ...
    pub storage: Arc<str>,
}

/// All tensors of a checkpoint by name.
#[derive(Clone, Debug, Default)]
pub struct TensorIndex {
    tensors: BTreeMap<String, TensorInfo>,
    used: RefCell<BTreeSet<String>>,
}

impl TensorIndex {
    /// An index of these tensors.
    pub fn new(tensors: impl IntoIterator<Item = (String, TensorInfo)>) -> TensorIndex {
        TensorIndex { tensors: tensors.into_iter().collect(), used: RefCell::default() }
    }

    /// Whether the checkpoint has a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor, if the checkpoint has it.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// Marks a tensor as known and of no use at inference.
    pub(crate) fn discard(&self, name: &str) {
        self.used.borrow_mut().insert(name.into());
    }

    /// [`TensorIndex::discard`] of all tensors whose name is such; gives their number.
    pub(crate) fn discard_all(&self, such: impl Fn(&str) -> bool) -> usize {
        let names = self.tensors.keys().filter(|name| such(name));
        names.map(|name| self.discard(name)).count()
    }

    /// Matrices `[count, rows, cols]` as one of `count * rows` rows.
    pub(crate) fn stack(&self, name: &str, shape: [usize; 3]) -> Result<TensorExpr, Error> {
        let [count, rows, cols] = shape;
        self.take(name, &shape, count.saturating_mul(rows), cols)
    }

    /// A matrix of this shape; a vector is one row.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<TensorExpr, Error> {
        if rows == 1 && self.shape(name) == Some(&[cols]) {
            return self.vector(name, cols);
        }
        self.take(name, &[rows, cols], rows, cols)
    }

    /// A vector of this length.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<TensorExpr, Error> {
        self.take(name, &[len], 1, len)
    }

    /// The tensor of this shape as a matrix of as many values.
    pub(crate) fn take(
        &self,
        name: &str,
        shape: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<TensorExpr, Error> {
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::new(ErrorKind::Missing, format!("tensor {name:?} is missing")));
        };
        if info.shape != shape {
            let message = format!("tensor {name:?} has shape {:?}, not {shape:?}", info.shape);
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        self.used.borrow_mut().insert(name.into());
        Ok(TensorExpr::Tensor { name: name.into(), rows, cols, storage: info.storage.clone() })
    }

    /// Refuses tensors that no one asked for.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let used = self.used.borrow();
        let unknown: Vec<&String> = self.tensors.keys().filter(|k| !used.contains(*k)).collect();
        match unknown.first() {
            None => Ok(()),
            Some(name) => {
                let more = match unknown.len() - 1 {
                    0 => String::new(),
                    n => format!(" (and {n} more)"),
                };
                let message = format!("tensor {name:?}{more} is not known to this architecture");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}
