//! Import of ONNX models (operator sets 11 to 21): a model becomes one entry of tensors, with its own
//! names for what goes in and out.

mod choose;
mod constant;
mod cut;
mod external;
mod fold;
#[cfg(test)]
mod hostile;
mod importer;
mod names;
mod node;
mod norm;
mod ops;
mod runtime_ops;
mod segment;
mod sizes;
mod source;
mod types;
mod walk;

use std::collections::BTreeMap;
use std::path::Path;

use limbeck_graph::ValueSource;
use limbeck_models::{Description, Student};
use limbeck_plan::{Manifest, Task};
use prost::Message;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, TextFiles};
use super::folder::Folder;
use super::map::FileBytes;
use super::sampler;
use super::tensor::Tensor;
use crate::error::{At, Error, Result};
use crate::onnx::proto;
use crate::segments::{Part, Prefer};
use choose::{asked_for, without_native, wrapping};
use external::External;
use proto::{ModelProto, StringStringEntryProto};
use source::{Imported, Source};

/// Versions of ONNX's operator set that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 11..=21;
/// Graphs within graphs.
const MAX_DEPTH: usize = 16;

/// What is chosen of a model.
#[derive(Clone, Debug, Default)]
pub struct OnnxChoices {
    /// Values of inputs, which become constants, and of sizes that have names.
    pub fixed: BTreeMap<String, f64>,
    /// Who computes its nodes.
    pub prefer: Prefer,
    /// Names of nodes for ONNX Runtime, in which `*` stands for any text.
    pub onnx_for: Vec<String>,
}

/// An opened model, as a graph.
pub struct OnnxModel {
    student: String,
    licence: Option<String>,
    description: Description,
    text: TextFiles,
    graph: Student,
    parts: Vec<Part>,
    sampler: Option<Value>,
}

impl OnnxModel {
    /// Opens a `.onnx` file and imports it.
    ///
    /// # Errors
    /// A file that is not a model, data outside of its folder, operators that are not supported (all of
    /// them, with their nodes), a node that does not fit its inputs.
    pub fn open(path: &Path, choices: &OnnxChoices) -> Result<OnnxModel> {
        let bytes = FileBytes::open(path).at(path.display())?;
        let folder = Folder::open(path.parent().unwrap_or(Path::new("")))?;
        let student = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
        let beside = sampler::in_folder(&folder, &student)?;
        let external = External::in_folder(folder);
        let mut model = OnnxModel::read(&bytes, &external, student, choices).at(path.display())?;
        model.sampler = beside.or(model.sampler);
        Ok(model)
    }

    fn read(
        bytes: &[u8],
        external: &External,
        student: String,
        choices: &OnnxChoices,
    ) -> Result<OnnxModel> {
        if bytes.is_empty() {
            return Err(Error::format("it is empty"));
        }
        let mut model = ModelProto::decode(bytes)
            .map_err(|e| Error::format(format!("not an ONNX model: {e}")))?;
        if let Some(graph) = &mut model.graph {
            names::check_given_once(graph)?;
            // A model that passes as a whole passes as it is.
            if choices.prefer != Prefer::Onnx {
                cut::drop_unused(graph);
            }
        }
        let opset = opset(&model, choices.prefer)?;
        let graph = model.graph.as_ref().ok_or_else(|| Error::format("it has no graph"))?;
        let source = Source::new(&model, graph, external, opset, &choices.fixed);
        let Imported { graph, parts, mut notes, .. } = if choices.prefer == Prefer::Onnx {
            source.whole()?
        } else {
            let mut chosen = without_native(&model, graph, opset)?;
            chosen.extend(wrapping(graph, &source.tables.types));
            source.import(chosen, asked_for(graph, &choices.onnx_for)?)?
        };
        let metadata = |key: &str| model.metadata_props.iter().find(|p| p.key == key);
        let (sampler, note) = match metadata("sampler") {
            Some(p) => {
                let parsed = serde_json::from_str(&p.value);
                let parsed = parsed.map_err(|e| Error::format(e.to_string()));
                (Some(parsed.at("metadata \"sampler\"")?), None)
            }
            None => consistency(metadata("architecture"), &graph).unzip(),
        };
        notes.extend(note);
        let licence = model.metadata_props.iter().find(|p| p.key.eq_ignore_ascii_case("license"));
        Ok(OnnxModel {
            student: student.clone(),
            licence: licence.map(|p| p.value.clone()),
            description: Description::default(),
            text: TextFiles::default(),
            parts,
            graph: Student {
                architecture: "onnx".into(),
                task: Task::Tensors,
                context_length: 1,
                vocab_size: 0,
                embedding_size: 0,
                entries: vec![(Manifest::TENSORS_ENTRY.into(), graph)],
                notes,
            },
            sampler,
        })
    }
}

/// The sampler of a model that says it is a consistency model and takes noise levels, with the constants
/// of the paper; and a note of it.
fn consistency(
    architecture: Option<&StringStringEntryProto>,
    graph: &limbeck_graph::Graph,
) -> Option<(Value, String)> {
    architecture.filter(|p| p.value.starts_with("consistency"))?;
    let sigma =
        |value: &limbeck_graph::Value| value.source == ValueSource::Input && value.name == "sigma";
    graph.values().iter().find(|value| sigma(value))?;
    graph.outputs().iter().find(|(name, _)| name == "denoised")?;
    let rule = json!({"rule": "consistency", "output": "denoised", "time": "sigma"});
    let note = "the model says that it is a consistency model and not how it is sampled: noise levels from \
                0.002 to 80 are taken for it";
    Some((json!({"scheduler": rule, "output": "denoised", "time": "sigma"}), note.into()))
}

impl Checkpoint for OnnxModel {
    fn format(&self) -> &'static str {
        "onnx"
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn text(&self) -> &TextFiles {
        &self.text
    }

    fn student(&self) -> &str {
        &self.student
    }

    fn licence(&self) -> Option<&str> {
        self.licence.as_deref()
    }

    fn tensors(&self) -> Vec<Tensor<'_>> {
        Vec::new()
    }

    fn tensor(&self, _: &str) -> Option<Tensor<'_>> {
        None
    }

    fn graph(&self) -> Option<&Student> {
        Some(&self.graph)
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn sampler(&self) -> Option<&Value> {
        self.sampler.as_ref()
    }
}

fn opset(model: &ModelProto, prefer: Prefer) -> Result<i64> {
    let own = |domain: &str| matches!(domain, "" | "ai.onnx");
    let found = model.opset_import.iter().find(|o| own(&o.domain));
    let version = found.ok_or_else(|| Error::format("it names no operator set"))?.version;
    if OPSETS.contains(&version) || prefer == Prefer::Onnx {
        return Ok(version);
    }
    let (first, last) = (OPSETS.start(), OPSETS.end());
    let message = format!(
        "operator set {version}; those from {first} to {last} are read, others pass with --prefer onnx"
    );
    Err(Error::unsupported(message))
}
