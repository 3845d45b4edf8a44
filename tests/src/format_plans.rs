//! The committed plans of the plan format's current major version, each of a layout of weights and
//! of values: what a reader of that version has to read for ever.

use std::path::PathBuf;

use limbeck_compiler::Quant;

use crate::{Compiled, golden};

/// A committed plan and the tiny student that it was compiled from.
#[derive(Debug)]
pub struct FormatPlan {
    name: &'static str,
    /// Under `golden`.
    source: &'static str,
    quant: Quant,
    /// Of activation sparsity; none for a dense plan.
    thresholds: &'static [f32],
}

/// All of them.
pub const FORMAT_PLANS: &[FormatPlan] = &[
    FormatPlan { name: "panels-f32", source: "tiny/qwen2", quant: Quant::F32, thresholds: &[] },
    FormatPlan { name: "panels-f16", source: "tiny/qwen3", quant: Quant::F16, thresholds: &[] },
    FormatPlan { name: "quads-q8", source: "tiny/qwen3", quant: Quant::Q8, thresholds: &[] },
    FormatPlan { name: "quads-q4", source: "tiny/qwen2", quant: Quant::Q4, thresholds: &[] },
    FormatPlan {
        name: "quads-q8-gguf",
        source: "gguf/tiny_llama.gguf",
        quant: Quant::Keep,
        thresholds: &[],
    },
    FormatPlan {
        name: "channels-f16",
        source: "tiny/qwen3",
        quant: Quant::F16,
        thresholds: &[0.05, 0.02],
    },
    FormatPlan {
        name: "columns-f16",
        source: "tiny/qwen3",
        quant: Quant::F16,
        thresholds: &[0.05, 0.02],
    },
    FormatPlan {
        name: "channels-q4",
        source: "tiny/qwen2",
        quant: Quant::Q4,
        thresholds: &[0.05, 0.02],
    },
];

impl FormatPlan {
    /// The format that its weights have, as it is displayed: what its name says.
    pub fn format(&self) -> String {
        let mut parts = self.name.split('-');
        let [layout, values] = [parts.next(), parts.next()].map(Option::unwrap_or_default);
        format!("{values}/{layout}")
    }

    /// The committed file.
    pub fn path(&self) -> PathBuf {
        golden().join("plans").join(format!("{}.lbk", self.name))
    }

    /// Compiles the student anew.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn compile(&self) -> Compiled {
        let source = golden().join(self.source);
        match self.thresholds {
            [] => Compiled::new(&source, self.quant, true),
            thresholds => Compiled::sparse(&source, self.quant, thresholds),
        }
    }
}
