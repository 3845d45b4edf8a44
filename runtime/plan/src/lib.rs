//! The Limbeck plan file: what it holds, how it is parsed, validated and written.
//!
//! Everything a reader takes from a file is treated as hostile. This crate has no unsafe code and
//! no policy about where bytes come from.
#![forbid(unsafe_code)]

mod calibration;
mod check;
mod check_sites;
mod dims;
mod error;
mod file;
mod format;
mod infer;
mod manifest;
mod ops;
mod program;
mod reader;
mod sampler;
mod writer;

pub use calibration::{Calibration, CalibrationPoint, QualityKind};
pub use check::WEIGHT_ALIGN;
pub use dims::{Dim, Symbol};
pub use error::{Error, ErrorKind};
pub use file::{MAGIC, MAJOR, MINOR, PLAN_ALIGN, SECTION_ALIGN, Section, SectionKind};
pub use format::{
    CHANNEL_RUN, GATE_GROUP, Layout, PANEL_ROWS, PackFormat, QUAD_ROWS, QUANT_BLOCK, Values,
    WIDE_BLOCK,
};
pub use infer::{InputRole, broadcast};
pub use manifest::{GenerationDefaults, Manifest, Provenance, SpecialTokens, Task};
pub use ops::*;
pub use program::{
    DType, Entry, Fact, Operand, OperandId, OperandKind, Program, Segment, Site, SiteKind, State,
    StateKind, Step, Weight, place,
};
pub use reader::Plan;
pub use sampler::{Condition, Sampler, StepRow, StepTable};
pub use writer::PlanWriter;
