//! Runs the command and looks at what it says.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use npyz::WriterBuilder;
use npyz::npz::{NpzArchive, NpzWriter};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a run of the command gave.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `limbeck` with nothing on stdin.
pub fn limbeck<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    limbeck_with(args, b"")
}

/// Runs `limbeck` with these bytes on stdin.
pub fn limbeck_with<S: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = S>,
    stdin: &[u8],
) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limbeck"));
    command.args(args);
    run(command, stdin)
}

pub fn run(mut command: Command, stdin: &[u8]) -> Run {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("a process");
    let mut input = child.stdin.take().expect("stdin");
    let stdin = stdin.to_vec();
    // A command that fails early does not read what it is given.
    let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
    let output = child.wait_with_output().expect("an end");
    writer.join().expect("a written stdin");
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

impl Run {
    /// It succeeded; gives stdout.
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// It succeeded and printed one JSON object.
    pub fn json(self) -> Value {
        let value: Value = serde_json::from_str(&self.ok()).expect("one JSON value");
        assert!(value.is_object(), "{value}");
        value
    }

    /// It failed with status 1, one sentence with these words on stderr, and nothing on stdout.
    pub fn fails(self, words: &[&str]) {
        assert_eq!(self.status, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let lines = self.stderr.lines().filter(|l| !l.starts_with("limbeck: note:"));
        let lines: Vec<&str> = lines.collect();
        let [line] = lines[..] else { panic!("not one line: {self:?}") };
        assert!(line.starts_with("limbeck: ") && line.len() < 500, "{self:?}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }

    /// It was used wrongly: status 2, one sentence with these words first on stderr (clap adds where to
    /// read more), and nothing on stdout.
    pub fn usage(self, words: &[&str]) {
        assert_eq!(self.status, Some(2), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.lines().next().unwrap_or_default();
        assert!(line.starts_with("error: ") || line.starts_with("limbeck: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
    }
}

pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

/// A folder of its own for a test, with a student in it.
pub struct Place {
    folder: TempDir,
}

/// Letters, one merge and two special tokens; the rest of the student's vocabulary has no text.
pub fn tokenizer(tokens: usize) -> Value {
    let mut vocab = json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "Ġ": 5, "ab": 6});
    for i in 7..tokens {
        vocab[format!("t{i}")] = json!(i);
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": ["a b"]},
    })
}

fn words() -> Value {
    let vocab = json!({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "##b": 6});
    let special = |id: &str, n: u32| json!({"id": id, "ids": [n], "tokens": [id]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

impl Place {
    pub fn empty() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A copy of a tiny golden checkpoint in `student`.
    pub fn checkpoint(name: &str) -> Place {
        Place::golden(&format!("tiny/{name}"))
    }

    /// A copy of any golden checkpoint in `student`.
    pub fn golden(name: &str) -> Place {
        let place = Place::empty();
        limbeck_tests::copy_folder(&golden(name), &place.path("student"));
        place
    }

    /// A text student with a tokenizer in `student.lbk`.
    pub fn text() -> Place {
        let place = Place::checkpoint("llama");
        place.write("student/tokenizer.json", tokenizer(7).to_string());
        place.compile().ok();
        place
    }

    /// An encoder with a tokenizer in `student.lbk`.
    pub fn encoder() -> Place {
        let place = Place::checkpoint("bert");
        place.write("student/tokenizer.json", words().to_string());
        place.compile().ok();
        place
    }

    /// An encoder with a tokenizer and adaptive modules in `student.lbk`.
    pub fn adaptive() -> Place {
        let place = Place::checkpoint("bert");
        place.write("student/tokenizer.json", words().to_string());
        acm(&place);
        place
    }

    pub fn compile(&self) -> Run {
        limbeck(["compile", &self.arg("student"), "-o", &self.arg("student.lbk"), "--quant", "f32"])
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A path as an argument.
    pub fn arg(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    pub fn plan(&self) -> String {
        self.arg("student.lbk")
    }

    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), bytes).expect("a written file");
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).expect("a file")
    }

    /// Names of all files and folders.
    pub fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path()).expect("the folder");
        let names = files.map(|f| f.expect("a file").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Writes tensors of integers.
    pub fn npz<T: npyz::AutoSerialize + Copy>(&self, file: &str, tensors: &[(&str, &[u64], &[T])]) {
        let mut npz = NpzWriter::create(self.path(file)).expect("a file");
        for (name, shape, values) in tensors {
            array(&mut npz, name, shape, values);
        }
    }
}

/// Adds a tensor to an archive.
pub fn array<T: npyz::AutoSerialize + Copy>(
    npz: &mut NpzWriter<std::io::BufWriter<File>>,
    name: &str,
    shape: &[u64],
    values: &[T],
) {
    let array = npz.array(name, Default::default()).expect("an array");
    let mut array = array.default_dtype().shape(shape).begin_nd().expect("an array");
    array.extend(values.iter().copied()).expect("values");
    array.finish().expect("an end");
}

/// A column of the points of a calibration table in JSON.
pub fn numbers(table: &Value, name: &str) -> Vec<f64> {
    let points = table["points"].as_array().expect("points").iter();
    points.map(|p| p[name].as_f64().unwrap_or_else(|| panic!("{name} of {p}"))).collect()
}

/// The table of a report of `tune`, which must be of the promised shape; `inspect` must show the
/// same table without what only the report holds of each point.
pub fn stored_table(report: &Value, plan: &str, only_reported: &[&str]) -> Value {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    assert_eq!(keys(report), ["plan", "calibration", "search", "plot", "seconds"]);
    assert_eq!(report["plan"], plan);
    assert!(report["seconds"].as_f64().is_some_and(|s| s > 0.0), "{report}");
    let mut table = report["calibration"].clone();
    assert_eq!(keys(&table), ["quality", "data", "tokens", "machine", "points"]);
    for point in table["points"].as_array_mut().expect("points") {
        let point = point.as_object_mut().expect("a point");
        for name in only_reported {
            assert!(point.remove(*name).is_some_and(|v| v.is_number()), "no {name}: {point:?}");
        }
        let names: Vec<&str> = point.keys().map(String::as_str).collect();
        assert_eq!(names, ["price", "fraction", "site_fraction", "quality", "ms_per_token"]);
    }
    assert_eq!(limbeck(["inspect", plan, "--json", "--verify"]).json()["calibration"], table);
    table
}

/// ACMs of two learners over the tiny encoder, whose gates prefer all learners by their bias alone.
pub fn acm(place: &Place) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for layer in 0..2 {
        let tensors: [(&str, &[usize]); 6] = [
            ("acm.w1", &[64, 32]),
            ("acm.b1", &[64]),
            ("acm.w2", &[64, 32]),
            ("acm.bk", &[3, 32]),
            ("gate.weight", &[3, 32]),
            ("gate.bias", &[3]),
        ];
        for (name, shape) in tensors {
            let start = data.len();
            let value = |i: usize| if name == "gate.bias" { -(i as f32) } else { 0.0 };
            data.extend((0..shape.iter().product()).flat_map(|i| value(i).to_le_bytes()));
            let info = json!({
                "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()],
            });
            header.insert(format!("layers.{layer}.{name}"), info);
        }
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    std::fs::create_dir(place.path("acm")).expect("a folder");
    place.write("acm/model.safetensors", bytes);
    limbeck(["compile", &place.arg("student"), "-o", &place.plan(), "--with", &place.arg("acm")])
        .ok();
}

/// Shape and values of a tensor.
pub fn tensor<T: npyz::Deserialize>(path: &Path, name: &str) -> (Vec<u64>, Vec<T>) {
    let mut npz = NpzArchive::<std::io::BufReader<File>>::open(path).expect("an archive");
    let array = npz.by_name(name).expect("readable").expect("the tensor");
    (array.shape().to_vec(), array.into_vec().expect("values"))
}
