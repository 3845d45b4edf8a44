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

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.archive.array_names().map(str::to_owned).collect()
    }

    /// Whether a tensor is of f32.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn is_float(&mut self, name: &str) -> bool {
        let array = self.archive.by_name(name).expect("a readable archive");
        let array = array.unwrap_or_else(|| panic!("no tensor {name:?}"));
        array.dtype().descr().contains("f4")
    }

    /// Shape and values of an i64 tensor.
    ///
    /// # Panics
    /// When there is none of that name and type.
    pub fn integers(&mut self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let array = self.archive.by_name(name).expect("a readable archive");
        let array = array.unwrap_or_else(|| panic!("no tensor {name:?}"));
        let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
        let order = array.order();
        (shape.clone(), in_rows(order, &shape, array.into_vec().expect("i64 values")))
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

/// Values row by row, however the file orders them.
fn in_rows<T: Copy>(order: Order, shape: &[usize], values: Vec<T>) -> Vec<T> {
    if order == Order::C || shape.len() < 2 {
        return values;
    }
    let place = |mut at: usize| {
        let mut index = vec![0; shape.len()];
        for (axis, size) in shape.iter().enumerate().rev() {
            (index[axis], at) = (at % size, at / size);
        }
        index.iter().zip(shape).rev().fold(0, |place, (i, size)| place * size + i)
    };
    (0..values.len()).map(|at| values[place(at)]).collect()
}
