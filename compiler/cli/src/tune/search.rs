//! Fitting the weights of sites.

use std::fmt;

use limbeck::Model;
use limbeck::plan::Program;
use serde_json::{Value, json};

use super::measure::{Measure, Progress};
use crate::output::Failure;

/// What a search found.
pub struct Search {
    pub program: Program,
}

impl Search {
    pub fn improves(&self) -> bool {
        false
    }

    pub fn to_json(&self) -> Value {
        json!({})
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("search")
    }
}

pub fn search(
    model: &Model,
    _: &mut dyn Measure,
    _: &[f64],
    _: usize,
    _: &mut Progress,
) -> Result<Search, Failure> {
    Ok(Search { program: model.plan().program().clone() })
}
