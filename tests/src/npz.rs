//! Goldens in `.npz` files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use npyz::Order;
use npyz::npz::NpzArchive;

/// Named tensors.
pub struct Npz {
    archive: NpzArchive<BufReader<File>>,
}

impl Npz {
    /// Opens a file.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn open(path: &Path) -> Npz {
        let archive = NpzArchive::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Npz { archive }
    }

    /// Shape and values of an f32 tensor.
    ///
    /// # Panics
    /// When there is none of that name and type.
    pub fn floats(&mut self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let array = self.archive.by_name(name).expect("a readable archive");
        let array = array.unwrap_or_else(|| panic!("no tensor {name:?}"));
        let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
        let order = array.order();
        (shape.clone(), in_rows(order, &shape, array.into_vec().expect("f32 values")))
    }

    /// Shape and values of an i64 tensor of token ids.
    ///
    /// # Panics
    /// When there is none of that name and type.
    pub fn ids(&mut self, name: &str) -> (Vec<usize>, Vec<u32>) {
        let array = self.archive.by_name(name).expect("a readable archive");
        let array = array.unwrap_or_else(|| panic!("no tensor {name:?}"));
        let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
        let order = array.order();
        let values: Vec<i64> = in_rows(order, &shape, array.into_vec().expect("i64 values"));
        (shape, values.iter().map(|v| u32::try_from(*v).expect("an id")).collect())
    }
}

/// Values of a matrix row by row, however the file orders them.
fn in_rows<T: Copy>(order: Order, shape: &[usize], values: Vec<T>) -> Vec<T> {
    match (order, shape) {
        (Order::C, _) | (Order::Fortran, [_]) => values,
        (Order::Fortran, &[rows, cols]) => {
            (0..rows * cols).map(|i| values[(i % cols) * rows + i / cols]).collect()
        }
        _ => panic!("a tensor of shape {shape:?} in Fortran order"),
    }
}
