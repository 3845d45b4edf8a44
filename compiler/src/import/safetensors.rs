//! Hugging Face folders: `config.json`, safetensors (one file or shards with an index), tokenizer,
//! chat template, generation defaults, and sentence-transformers' pooling.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use limbeck_models::{Description, EmbeddingRule};
use limbeck_plan::{GenerationDefaults, Pooling, SpecialTokens};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checkpoint::{Checkpoint, TextFiles};
use super::folder::Folder;
use super::gguf::BlockType;
use super::map::FileBytes;
use super::sampler;
use super::tensor::{RowOrder, Tensor};
use crate::error::{At, Error, Result};

/// Largest configuration that is read; parsed, it takes many times its size.
const MAX_JSON: u64 = 1 << 20;
/// Largest `tokenizer_config.json` that is read: it lists the special tokens again.
const MAX_TOKENIZER_CONFIG: u64 = 4 << 20;
/// Largest tokenizer, template or index that is read.
const MAX_TEXT: u64 = 256 << 20;

/// What is read of `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// File of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// What is read of `tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    chat_template: ChatTemplates,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
    #[default]
    None,
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    shape: Vec<usize>,
    storage: BlockType,
    range: std::ops::Range<usize>,
}

/// The tensors of a folder.
#[derive(Debug)]
pub(super) struct SafetensorsFiles {
    files: Vec<FileBytes>,
    entries: BTreeMap<String, Entry>,
}

impl SafetensorsFiles {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(folder: &Folder) -> Result<SafetensorsFiles> {
        let (files, entries) = open_tensors(folder)?;
        Ok(SafetensorsFiles { files, entries })
    }

    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.iter().filter_map(|(name, e)| self.view(name, e))
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.view(name, self.entries.get(name)?)
    }

    fn view<'a>(&'a self, name: &str, entry: &Entry) -> Option<Tensor<'a>> {
        let bytes = self.files.get(entry.file)?.get(entry.range.clone())?;
        let shape = entry.shape.clone();
        Tensor::new(name, shape, entry.storage, bytes, RowOrder::Stored).ok()
    }
}

/// An opened folder.
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    student: String,
    description: Description,
    text: TextFiles,
    files: SafetensorsFiles,
    sampler: Option<Value>,
}

impl SafetensorsCheckpoint {
    /// Opens a folder with `config.json` and `model.safetensors` or
    /// `model.safetensors.index.json`.
    ///
    /// # Errors
    /// A missing or malformed file, a dtype that is not supported, a shard or a link that leaves the folder.
    pub fn open(path: &Path) -> Result<SafetensorsCheckpoint> {
        let folder = &Folder::open_snapshot(path)?;
        let config = read_json(&folder.file("config.json")?)?
            .ok_or_else(|| Error::missing(no_config(path)).at(path.display()))?;
        if let Some(v) = config.get("quantization_config").filter(|v| !v.is_null()) {
            let message = format!("config key \"quantization_config\" is not supported: {v}");
            return Err(Error::unsupported(message).at(path.display()));
        }
        let files = SafetensorsFiles::open(folder)?;
        let text = read_text(folder, &config)?;
        let (pooling, image) = (read_pooling(folder)?, read_image(folder)?);
        let name = path.canonicalize().unwrap_or_else(|_| path.into());
        Ok(SafetensorsCheckpoint {
            student: name.file_name().map_or("student".into(), |n| n.to_string_lossy().into()),
            description: Description { config, pooling, image, ..Description::default() },
            text,
            files,
            sampler: sampler::in_folder(folder, "model")?,
        })
    }
}

impl Checkpoint for SafetensorsCheckpoint {
    fn format(&self) -> &'static str {
        "safetensors"
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn text(&self) -> &TextFiles {
        &self.text
    }

    fn sampler(&self) -> Option<&Value> {
        self.sampler.as_ref()
    }

    fn student(&self) -> &str {
        &self.student
    }

    fn licence(&self) -> Option<&str> {
        None
    }

    fn tensors(&self) -> Vec<Tensor<'_>> {
        self.files.tensors().collect()
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.files.tensor(name)
    }
}

/// Says what is missing, and what to give instead where that is plain.
fn no_config(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut gguf = files.filter(|path| path.extension().is_some_and(|e| e == "gguf"));
    match gguf.next() {
        Some(path) => format!("the folder has no config.json: give {} itself", path.display()),
        None => "the folder has no config.json".into(),
    }
}

fn open_tensors(folder: &Folder) -> Result<(Vec<FileBytes>, BTreeMap<String, Entry>)> {
    let mut files = Vec::new();
    let mut entries = BTreeMap::new();
    for path in shards(folder)? {
        let place = path.display().to_string();
        let bytes = FileBytes::open(&path).at(&place)?;
        read_shard(&bytes, files.len(), &mut entries).at(&place)?;
        files.push(bytes);
    }
    Ok((files, entries))
}

/// The files that hold the tensors, as transformers or diffusers name them. An index names them; names with a
/// path in them are refused.
fn shards(folder: &Folder) -> Result<Vec<PathBuf>> {
    for name in ["model", "diffusion_pytorch_model"] {
        let index_path = folder.file(format!("{name}.safetensors.index.json"))?;
        if let Some(index) = read_file(&index_path, MAX_TEXT)? {
            return indexed(folder, &index_path, &index);
        }
        let single = folder.file(format!("{name}.safetensors"))?;
        if single.exists() {
            return Ok(vec![single]);
        }
    }
    let message = "the folder has no model.safetensors and no model.safetensors.index.json";
    Err(Error::missing(message).at(folder.path().display()))
}

/// The files that an index names.
fn indexed(folder: &Folder, index_path: &Path, index: &[u8]) -> Result<Vec<PathBuf>> {
    let index: Index = parse(index_path, index)?;
    let mut names = BTreeSet::new();
    for (tensor, name) in index.weight_map {
        if Path::new(&name).file_name() != Some(name.as_ref()) {
            let message =
                format!("tensor {tensor:?} is in {name:?}, which is not a plain file name");
            return Err(Error::format(message).at(index_path.display()));
        }
        names.insert(name);
    }
    names.into_iter().map(|name| folder.file(name)).collect()
}

fn read_shard(bytes: &FileBytes, file: usize, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::format(format!("not a safetensors file: {e}")))?;
    let data_start = header + 8;
    for (name, info) in metadata.tensors() {
        let storage = match info.dtype {
            Dtype::F32 => BlockType::F32,
            Dtype::F16 => BlockType::F16,
            Dtype::BF16 => BlockType::BF16,
            // Integer buffers (position ids, batches that were counted) carry no weights.
            Dtype::I64 | Dtype::I32
                if name.ends_with("position_ids") || name.ends_with("num_batches_tracked") =>
            {
                continue;
            }
            other => {
                let message = format!("its dtype {other:?} is not supported");
                return Err(Error::unsupported(message).at(format_args!("tensor {name}")));
            }
        };
        let (start, end) = info.data_offsets;
        let range = data_start + start..data_start + end;
        let view = bytes.get(range.clone()).unwrap_or_default();
        Tensor::new(name.as_str(), info.shape.clone(), storage, view, RowOrder::Stored)?;
        let entry = Entry { file, shape: info.shape.clone(), storage, range };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Error::format("another shard has it too").at(format_args!("tensor {name}")));
        }
    }
    Ok(())
}

/// The bytes of a file; `None` when there is none.
fn read_file(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    // Looked at before it is opened: opening a pipe waits for a writer.
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.at(path.display())?,
    };
    let (is_file, len) = (metadata.is_file(), metadata.len());
    if !is_file || len > most {
        let message = match is_file {
            true => format!("its {len} bytes are more than the {most} that are read"),
            false => "this is not a file".into(),
        };
        return Err(Error::format(message).at(path.display()));
    }
    std::fs::read(path).map(Some).at(path.display())
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::format(format!("not as it should be: {e}")).at(path.display()))
}

/// A JSON file; `None` when there is none.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let bytes = read_file(path, MAX_JSON)?;
    bytes.map(|bytes| parse(path, &bytes)).transpose()
}

fn read_string(path: &Path) -> Result<Option<String>> {
    let text = read_file(path, MAX_TEXT)?.map(String::from_utf8).transpose();
    text.map_err(|e| Error::format(e.to_string()).at(path.display()))
}

fn read_text(folder: &Folder, config: &Value) -> Result<TextFiles> {
    let tokenizer_config = folder.file("tokenizer_config.json")?;
    let generation = read_json(&folder.file("generation_config.json")?)?.unwrap_or_default();
    let sentence = read_json(&folder.file("sentence_bert_config.json")?)?.unwrap_or_default();
    let template = match read_string(&folder.file("chat_template.jinja")?)? {
        Some(template) => Some(template),
        None => match read_file(&tokenizer_config, MAX_TOKENIZER_CONFIG)? {
            Some(bytes) => chat_template(parse(&tokenizer_config, &bytes)?),
            None => None,
        },
    };
    let ids = |key: &str| {
        let found = [&generation, config].into_iter().map(|v| token_ids(v.get(key)));
        found.into_iter().find(|ids| !ids.is_empty()).unwrap_or_default()
    };
    Ok(TextFiles {
        tokenizer: read_string(&folder.file("tokenizer.json")?)?,
        chat_template: template,
        special: SpecialTokens {
            bos: ids("bos_token_id").first().copied(),
            eos: ids("eos_token_id"),
            pad: ids("pad_token_id").first().copied(),
        },
        // The tokenizer's own post-processor adds it where the checkpoint wants it.
        add_bos: false,
        generation: generation_defaults(&generation),
        max_tokens: sentence.get("max_seq_length").and_then(Value::as_u64).map(|n| n as usize),
    })
}

fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(v) => id(v).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A string, or a list of named templates of which `default` counts.
fn chat_template(config: TokenizerConfig) -> Option<String> {
    match config.chat_template {
        ChatTemplates::One(template) => Some(template),
        ChatTemplates::Named(named) => {
            named.into_iter().find(|t| t.name == "default").map(|t| t.template)
        }
        ChatTemplates::None => None,
    }
}

/// How tokens are chosen. Where the file says to sample and not how, transformers' defaults are meant.
fn generation_defaults(config: &Value) -> GenerationDefaults {
    let number = |key: &str| config.get(key).and_then(Value::as_f64).map(|v| v as f32);
    let samples = config.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
    let top_k = config.get("top_k").and_then(Value::as_u64).and_then(|k| u32::try_from(k).ok());
    GenerationDefaults {
        temperature: samples.then(|| number("temperature").unwrap_or(1.0)),
        top_k: top_k.or(samples.then_some(50)),
        top_p: number("top_p"),
        repetition_penalty: number("repetition_penalty"),
    }
}

/// Height and width of images as `preprocessor_config.json` cuts or scales them, where it says so.
fn read_image(folder: &Folder) -> Result<Option<[usize; 2]>> {
    let config = read_json(&folder.file("preprocessor_config.json")?)?.unwrap_or_default();
    let size = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let sides = |key: &str| {
        let value = config.get(key)?;
        let side = |side: &str| value.get(side).and_then(size);
        let square = size(value).or_else(|| side("shortest_edge")).map(|n| [n, n]);
        square.or_else(|| Some([side("height")?, side("width")?]))
    };
    let cropped = config.get("do_center_crop").and_then(Value::as_bool).unwrap_or(false);
    Ok(if cropped { sides("crop_size") } else { None }.or_else(|| sides("size")))
}

/// `modules.json` of sentence-transformers: Transformer, Pooling and, possibly, Normalize.
fn read_pooling(folder: &Folder) -> Result<Option<EmbeddingRule>> {
    let path = folder.file("modules.json")?;
    let Some(modules) = read_json(&path)? else { return Ok(None) };
    let mut rule = None;
    let mut normalise = false;
    let Some(modules) = modules.as_array() else {
        return Err(Error::format("it is not a list of modules").at(path.display()));
    };
    for module in modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                let sub = module.get("path").and_then(Value::as_str).unwrap_or("1_Pooling");
                if Path::new(sub).file_name() != Some(sub.as_ref()) {
                    let message = format!("module path {sub:?} is not a plain folder name");
                    return Err(Error::format(message).at(path.display()));
                }
                rule = Some(pooling_rule(&folder.file(Path::new(sub).join("config.json"))?)?);
            }
            "Normalize" => normalise = true,
            _ => {
                let message = format!("module {kind:?} is not supported");
                return Err(Error::unsupported(message).at(path.display()));
            }
        }
    }
    Ok(rule.map(|pooling| EmbeddingRule { pooling, normalise }))
}

fn pooling_rule(path: &Path) -> Result<Pooling> {
    let config =
        read_json(path)?.ok_or_else(|| Error::missing("the file is missing").at(path.display()))?;
    let on: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, v)| key.starts_with("pooling_mode_") && **v == Value::Bool(true))
        .map(|(key, _)| key.as_str())
        .collect();
    let mode = config.get("pooling_mode").and_then(Value::as_str);
    match (on.as_slice(), mode) {
        (["pooling_mode_mean_tokens"], _) | ([], Some("mean")) => Ok(Pooling::Mean),
        (["pooling_mode_cls_token"], _) | ([], Some("cls")) => Ok(Pooling::Cls),
        (["pooling_mode_lasttoken"], _) | ([], Some("lasttoken")) => Ok(Pooling::Last),
        _ => {
            let message = format!("pooling {on:?} {} is not supported", mode.unwrap_or(""));
            Err(Error::unsupported(message).at(path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As transformers' `GenerationConfig` has it: a temperature of 1 and the 50 likeliest.
    #[test]
    fn sampling_without_numbers_has_those_of_transformers() {
        let of = |config: Value| {
            let found = generation_defaults(&config);
            (found.temperature, found.top_k)
        };
        assert_eq!(of(json!({"do_sample": true})), (Some(1.0), Some(50)));
        let given = json!({"do_sample": true, "temperature": 0.5, "top_k": 0});
        assert_eq!(of(given), (Some(0.5), Some(0)));
        assert_eq!(of(json!({"temperature": 0.5})), (None, None));
    }
}
