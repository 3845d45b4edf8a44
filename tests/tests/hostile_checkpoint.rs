//! Broken and hostile checkpoint folders: an error that names the file, tensor or key, or a plan
//! that runs; never a panic, a hang or more memory than the files justify.

use std::path::{Path, PathBuf};

use limbeck::plan::Task;
use limbeck::{
    Classifier, Encoder, EncoderInput, Engine, EngineOptions, SessionOptions, Wanted, Work,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::hostile::{Noise, Tally, each_mutation};
use limbeck_tests::{copy_folder, golden, memory};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder to spoil file by file, with a folder for the plan beside it.
struct Folder {
    root: tempfile::TempDir,
    engine: Engine,
    tally: Tally,
}

impl Folder {
    /// A copy of a golden folder.
    fn golden(name: &str) -> Folder {
        Folder::copy_of(&golden().join("tiny").join(name))
    }

    fn copy_of(path: &Path) -> Folder {
        let folder = Folder::empty();
        copy_folder(path, &folder.path(""));
        folder
    }

    fn empty() -> Folder {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("student")).expect("a folder");
        let options = EngineOptions { threads: 1, ..EngineOptions::default() };
        Folder { root, engine: Engine::new(options).expect("an engine"), tally: Tally::default() }
    }

    /// A Llama of a few hundred weights, so that each of its bytes can be spoiled.
    fn small() -> Folder {
        let folder = Folder::empty();
        folder.write("config.json", small_config().to_string());
        folder.write(WEIGHTS, small_weights().write());
        folder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("student").join(file)
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), bytes).expect("a written file");
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).expect("a file")
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&self.read(file)).expect("JSON")
    }

    fn bytes(&self) -> usize {
        let files = std::fs::read_dir(self.path("")).expect("the folder");
        files.map(|f| f.expect("a file").metadata().map_or(0, |m| m.len() as usize)).sum()
    }

    fn compile(&self) -> Result<(), String> {
        self.compile_from(&self.path(""), Quant::F32)
    }

    fn compile_from(&self, source: &Path, quant: Quant) -> Result<(), String> {
        let output = self.root.path().join("student.lbk");
        let options = Options::new(source, &output, quant);
        compile(&options, &mut |_, _, _| {}).map_err(|e| e.to_string())?;
        let model = self.engine.open(&output).map_err(|e| e.to_string())?;
        let _ = model.tokenizer().and_then(|t| t.encode("abc a", true));
        let _ = model.chat_template();
        match model.manifest().task {
            Task::Text => {
                let options = SessionOptions::default();
                let mut session = model.session(options).map_err(|e| e.to_string())?;
                let sequence = session.sequence();
                let tokens = &[1, 2, 0][..session.context().min(3)];
                let work = [Work { sequence, tokens, wanted: Wanted::All }];
                session.step(&work, |_, _| {}).map_err(|e| e.to_string())?;
            }
            Task::Embed => {
                let mut encoder = Encoder::new(&model).map_err(|e| e.to_string())?;
                let input = EncoderInput { ids: &[1], positions: &[0], keys: 1 };
                encoder.encode(&[input], |_, _| {}).map_err(|e| e.to_string())?;
            }
            Task::Classify => {
                let mut classifier = Classifier::new(&model).map_err(|e| e.to_string())?;
                let pixels = vec![0.5; classifier.image().iter().product()];
                classifier.classify(&pixels).map_err(|e| e.to_string())?;
            }
            Task::Tensors | Task::Diffuse => {
                return Err("a checkpoint became a plan of tensors".into());
            }
        }
        Ok(())
    }

    fn check(&mut self, name: &str) {
        let mut tally = std::mem::take(&mut self.tally);
        tally.check(name, self.bytes(), || self.compile());
        self.tally = tally;
    }

    /// Checks the folder with other contents of a file.
    fn with(&mut self, file: &str, name: &str, bytes: impl AsRef<[u8]>) {
        self.write(file, bytes);
        self.check(&format!("{file}: {name}"));
    }

    fn each_mutation_of(&mut self, file: &str, seed: u64) {
        let original = self.read(file);
        each_mutation(&self.json(file), seed, |name, value| {
            self.with(file, name, value.to_string());
        });
        self.write(file, original);
    }

    /// The message that refuses the folder as it is.
    fn refusal(&mut self) -> String {
        let before = self.tally.accepted;
        self.check("a folder to refuse");
        assert_eq!(self.tally.accepted, before, "it was accepted");
        self.compile().expect_err("refused before")
    }
}

fn small_config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4,
        "num_key_value_heads": 1, "intermediate_size": 16, "num_hidden_layers": 1,
        "vocab_size": 16, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "attention_multiplier": 0.5, "attn_logit_softcapping": 30.0,
        "final_logit_softcapping": 30.0, "eos_token_id": [1], "bos_token_id": 0,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0,
            "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.0, "truncate": true,
            "partial_rotary_factor": 1.0},
    })
}

/// A safetensors file in parts.
#[derive(Clone)]
struct Safetensors {
    header: Value,
    data: Vec<u8>,
}

impl Safetensors {
    fn of(tensors: &[(&str, &[usize])]) -> Safetensors {
        let (mut header, mut data) = (json!({}), Vec::new());
        for (name, shape) in tensors {
            let start = data.len();
            let values = (0..shape.iter().product::<usize>()).map(|i| (i % 7) as f32 * 0.1 - 0.3);
            data.extend(values.flat_map(f32::to_le_bytes));
            header[*name] =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        }
        Safetensors { header, data }
    }

    fn write(&self) -> Vec<u8> {
        let mut header = self.header.to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let len = (header.len() as u64).to_le_bytes();
        [&len[..], header.as_bytes(), &self.data].concat()
    }
}

fn small_weights() -> Safetensors {
    Safetensors::of(&[
        ("model.embed_tokens.weight", &[16, 8]),
        ("model.norm.weight", &[8]),
        ("model.layers.0.input_layernorm.weight", &[8]),
        ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
        ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("model.layers.0.post_attention_layernorm.weight", &[8]),
        ("model.layers.0.mlp.gate_proj.weight", &[16, 8]),
        ("model.layers.0.mlp.up_proj.weight", &[16, 8]),
        ("model.layers.0.mlp.down_proj.weight", &[8, 16]),
    ])
}

#[test]
fn the_unspoiled_folders_compile_and_run() {
    for folder in [Folder::small(), Folder::golden("bert"), Folder::golden("llama_yarn")] {
        assert_eq!(folder.compile(), Ok(()));
    }
}

#[test]
fn safetensors_of_any_bytes_never_panic() {
    let mut folder = Folder::small();
    let mut noise = Noise::new(1);
    let file = folder.read(WEIGHTS);
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for length in (0..header).step_by(5).chain([header, file.len() - 4, file.len() - 1]) {
        folder.with(WEIGHTS, &format!("cut to {length}"), &file[..length]);
    }
    assert_eq!(folder.tally.accepted, 0);
    let longer = [&file[..], &[0; 8]].concat();
    folder.with(WEIGHTS, "longer than its tensors", longer);
    let len = file.len() as u64;
    for value in [
        0,
        1,
        2,
        7,
        len - 8,
        len,
        len + 1,
        100_000_000,
        100_000_001,
        1 << 40,
        i64::MAX as u64,
        u64::MAX,
        u64::MAX - 7,
        noise.next_u64(),
        noise.next_u64(),
    ] {
        let mut bytes = file.clone();
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        folder.with(WEIGHTS, &format!("a header of {value} bytes"), bytes);
    }
    for at in 0..header {
        for value in [0, 1, 0xff, noise.next_u64() as u8] {
            let mut bytes = file.clone();
            bytes[at] = value;
            folder.with(WEIGHTS, &format!("byte {at} = {value}"), bytes);
        }
    }
    for _ in 0..500 {
        let mut bytes = file.clone();
        let bit = noise.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        folder.with(WEIGHTS, &format!("bit {bit}"), bytes);
    }
    assert!(folder.tally.tried > 4_000, "{:?}", folder.tally);
}

#[test]
fn safetensors_headers_of_any_value_never_panic() {
    let mut folder = Folder::small();
    let original = small_weights();
    each_mutation(&original.header, 2, |name, header| {
        let changed = Safetensors { header: header.clone(), ..original.clone() };
        folder.with(WEIGHTS, name, changed.write());
    });
    assert!(folder.tally.tried > 800, "{:?}", folder.tally);
    assert!(folder.tally.accepted < folder.tally.tried / 10, "{:?}", folder.tally);
}

#[test]
fn configurations_of_any_value_never_panic() {
    let mut tried = 0;
    for (mut folder, seed) in
        [Folder::small(), Folder::golden("qwen3"), Folder::golden("bert")].into_iter().zip(3..)
    {
        folder.each_mutation_of("config.json", seed);
        tried += folder.tally.tried;
    }
    assert!(tried > 900, "{tried}");
}

#[test]
fn configurations_of_mixtures_never_panic() {
    let mut tried = 0;
    for (name, seed) in ["qwen2_moe", "llava_f"].into_iter().zip(20..) {
        let mut folder = Folder::copy_of(&golden().join("moe").join(name));
        assert_eq!(folder.compile(), Ok(()));
        folder.each_mutation_of("config.json", seed);
        tried += folder.tally.tried;
    }
    assert!(tried > 800, "{tried}");
}

#[test]
fn configurations_of_convolutions_never_panic() {
    let mut folder = Folder::copy_of(&golden().join("resnet/odd"));
    assert_eq!(folder.compile(), Ok(()));
    folder.each_mutation_of("config.json", 30);
    folder.each_mutation_of("preprocessor_config.json", 31);
    assert!(folder.tally.tried > 200, "{:?}", folder.tally);
}

#[test]
fn rope_configurations_of_any_value_never_panic() {
    for (scaling, seed) in [
        json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}),
        json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16}),
        json!({"rope_type": "default", "rope_theta": 100.0}),
    ]
    .into_iter()
    .zip(6..)
    {
        let mut folder = Folder::small();
        let mut config = small_config();
        config["rope_parameters"] = scaling.clone();
        folder.with("config.json", "unspoiled", config.to_string());
        assert_eq!(folder.tally.accepted, 1);
        each_mutation(&scaling, seed, |name, scaling| {
            config["rope_parameters"] = scaling.clone();
            folder.with("config.json", name, config.to_string());
        });
    }
}

#[test]
fn other_files_of_any_value_never_panic() {
    let mut folder = Folder::golden("bert");
    folder.write("sentence_bert_config.json", r#"{"max_seq_length": 16}"#);
    folder.write(
        "generation_config.json",
        r#"{"do_sample": true, "temperature": 0.7, "top_k": 20,
        "top_p": 0.9, "repetition_penalty": 1.1, "eos_token_id": [1, 2]}"#,
    );
    folder.write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "{{ messages }}"}]}"#,
    );
    let files = [
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "generation_config.json",
        "tokenizer_config.json",
    ];
    for (file, seed) in files.into_iter().zip(10..) {
        folder.each_mutation_of(file, seed);
    }
    let mut folder = Folder::golden("llama_yarn");
    folder.each_mutation_of(INDEX, 20);
    assert!(folder.tally.tried > 200, "{:?}", folder.tally);
}

#[test]
fn every_file_may_hold_garbage_or_be_something_else() {
    let files = [
        "config.json",
        WEIGHTS,
        INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "modules.json",
        "sentence_bert_config.json",
    ];
    for file in files {
        let mut folder = Folder::small();
        let deep = [&b"[".repeat(200_000)[..], &b"]".repeat(200_000)].concat();
        let keys = [&b"{\"a\":".repeat(100_000)[..], b"1", &b"}".repeat(100_000)].concat();
        let wide = format!("{{\"x\":[{}0]}}", "0,".repeat(3_000_000)).into_bytes();
        let noise: Vec<u8> =
            (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (name, bytes) in [
            ("nothing", &b""[..]),
            ("not UTF-8", b"{\"model_type\": \"\xff\xfe\"}"),
            ("cut off", b"{\"model_type\": \"lla"),
            ("null", b"null"),
            ("a number", b"1e999"),
            ("two values", b"{} {}"),
            ("zeros", &[0; 4096]),
            ("deep lists", &deep),
            ("deep objects", &keys),
            ("many values", &wide),
            ("noise", &noise),
        ] {
            folder.with(file, name, bytes);
        }
        std::fs::remove_file(folder.path(file)).expect("removed");
        std::fs::create_dir(folder.path(file)).expect("a folder");
        let message = folder.refusal();
        assert!(message.contains(file) && message.contains("not a file"), "{message}");
        std::fs::remove_dir(folder.path(file)).expect("removed");
        // Opening a pipe that no one writes to would wait for ever.
        let made = std::process::Command::new("mkfifo").arg(folder.path(file)).status();
        if made.is_ok_and(|status| status.success()) {
            let message = folder.refusal();
            assert!(message.contains(file) && message.contains("not a file"), "{message}");
        }
    }
}

#[test]
fn weights_that_are_not_numbers_are_refused_by_tensor() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut folder = Folder::small();
        let mut weights = small_weights();
        let end = weights.data.len();
        weights.data[end - 4..].copy_from_slice(&value.to_le_bytes());
        folder.write(WEIGHTS, weights.write());
        let message = folder.refusal();
        assert!(message.contains("down_proj") && message.ends_with(shown), "{message}");
    }
    let mut folder = Folder::small();
    let mut weights = small_weights();
    weights.data.as_chunks_mut::<4>().0.iter_mut().for_each(|v| *v = 1e30f32.to_le_bytes());
    folder.with(WEIGHTS, "huge weights", weights.write());
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let mut missing = small_weights();
    missing.header.as_object_mut().unwrap().shift_remove("model.layers.0.mlp.down_proj.weight");
    missing.data.truncate(missing.data.len() - 8 * 16 * 4);
    let mut list: Vec<(&str, Vec<usize>)> = Vec::new();
    let original = small_weights();
    for (name, info) in original.header.as_object().unwrap() {
        let shape = info["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize);
        list.push((name, shape.collect()));
    }
    let rebuilt = |list: &[(&str, Vec<usize>)]| {
        let list: Vec<(&str, &[usize])> = list.iter().map(|(n, s)| (*n, s.as_slice())).collect();
        Safetensors::of(&list)
    };
    let mut extra = list.clone();
    extra.push(("model.layers.0.mlp.warp.weight", vec![2, 2]));
    let mut turned = list.clone();
    turned[10].1 = vec![16, 8];
    let mut deep = list.clone();
    deep[10].1 = vec![8, 4, 4];
    for (weights, words) in [
        (missing, ["down_proj", "missing"]),
        (rebuilt(&extra), ["mlp.warp", "not known"]),
        (rebuilt(&turned), ["down_proj", "[16, 8]"]),
        (rebuilt(&deep), ["down_proj", "[8, 4, 4]"]),
    ] {
        let mut folder = Folder::small();
        folder.write(WEIGHTS, weights.write());
        let message = folder.refusal();
        assert!(words.iter().all(|w| message.contains(w)), "{message}");
    }
}

#[test]
fn an_index_stays_within_its_folder() {
    let mut folder = Folder::golden("llama_yarn");
    let original = folder.json(INDEX);
    let outside = folder.root.path().join("outside.safetensors");
    std::fs::copy(folder.path("model-00001-of-00003.safetensors"), &outside).expect("a copy");
    let absolute = outside.display().to_string();
    for name in [
        "../outside.safetensors",
        &absolute,
        "",
        ".",
        "..",
        "a/../model-00001-of-00003.safetensors",
        "./model-00001-of-00003.safetensors",
        "nul\u{0}l",
        "no such file",
    ] {
        let mut index = original.clone();
        index["weight_map"]["model.norm.weight"] = name.into();
        folder.write(INDEX, index.to_string());
        let message = folder.refusal();
        assert!(
            message.contains("model.safetensors.index.json") || message.contains(name),
            "{message}"
        );
    }
    // The same tensors in two shards.
    std::fs::copy(
        folder.path("model-00001-of-00003.safetensors"),
        folder.path("again.safetensors"),
    )
    .expect("a copy");
    let mut index = original.clone();
    index["weight_map"]["model.norm.weight"] = "again.safetensors".into();
    folder.write(INDEX, index.to_string());
    let message = folder.refusal();
    assert!(
        message.contains("another shard has it too") && message.contains("tensor model."),
        "{message}"
    );
}

/// As Hugging Face's cache has it, a folder's files are links to blobs beside its snapshots.
#[cfg(unix)]
#[test]
fn links_lead_nowhere_but_to_the_blobs_of_a_cache() {
    use std::os::unix::fs::symlink;

    let folder = Folder::golden("llama_yarn");
    let root = folder.root.path();
    let (snapshot, blobs) = (root.join("snapshots/1"), root.join("blobs"));
    std::fs::create_dir_all(&snapshot).expect("a folder");
    std::fs::create_dir(&blobs).expect("a folder");
    let mut names = Vec::new();
    for (at, file) in std::fs::read_dir(folder.path("")).expect("the folder").enumerate() {
        let file = file.expect("a file").path();
        let name = file.file_name().expect("a name").to_owned();
        std::fs::rename(&file, blobs.join(at.to_string())).expect("moved");
        symlink(format!("../../blobs/{at}"), snapshot.join(&name)).expect("a link");
        names.push((at, name));
    }
    folder.compile_from(&snapshot, Quant::F32).unwrap_or_else(|e| panic!("{e}"));
    names.retain(|(_, name)| name != "expected.npz");
    assert_eq!(names.len(), 5, "{names:?}");
    for (at, name) in names {
        std::fs::rename(blobs.join(at.to_string()), root.join("outside")).expect("moved");
        std::fs::remove_file(snapshot.join(&name)).expect("removed");
        symlink(root.join("outside"), snapshot.join(&name)).expect("a link");
        let name = name.to_string_lossy();
        let message = folder.compile_from(&snapshot, Quant::F32).expect_err("refused");
        let words = format!("{name}: the path leaves the model's folder");
        assert!(message.contains(&words), "{name}: {message}");
        std::fs::remove_file(snapshot.join(&*name)).expect("removed");
        std::fs::rename(root.join("outside"), snapshot.join(&*name)).expect("moved");
    }
}

#[test]
fn sizes_beyond_any_student_are_refused_by_key() {
    for (key, value) in [
        ("num_hidden_layers", 1u64 << 28),
        ("head_dim", 1 << 28),
        ("num_attention_heads", 1 << 28),
        ("hidden_size", 1 << 28),
        ("max_position_embeddings", 1 << 28),
        ("vocab_size", 1 << 40),
        ("intermediate_size", u64::MAX),
    ] {
        let mut folder = Folder::small();
        let mut config = small_config();
        config[key] = value.into();
        folder.write("config.json", config.to_string());
        let message = folder.refusal();
        assert!(message.contains(key) || message.contains("tensor \"model."), "{key}: {message}");
    }
}

/// The importer's own tests spoil GGUF files far more; here they go all the way to a plan.
#[test]
fn gguf_files_of_any_bytes_become_plans_that_run_or_are_refused() {
    let folder = Folder::empty();
    let original = std::fs::read(golden().join("gguf/tiny_llama.gguf")).expect("the golden");
    let path = folder.path("tiny.gguf");
    let mut noise = Noise::new(30);
    let mut tally = Tally::default();
    let mut check = |name: &str, bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a written file");
        tally.check(name, bytes.len(), || folder.compile_from(&path, Quant::Keep));
    };
    check("unspoiled", &original);
    for _ in 0..600 {
        let mut bytes = original.clone();
        // The header's beginning holds the sizes; the weights are most of the rest.
        let within = if noise.below(3) == 0 { bytes.len() } else { 1500.min(bytes.len()) };
        let at = noise.below(within);
        bytes[at] = [0, 1, 0xff, bytes[at] ^ (1 << noise.below(8))][noise.below(4)];
        check(&format!("byte {at} = {}", bytes[at]), &bytes);
    }
    for step in 0..100 {
        let length = original.len() * step / 100;
        check(&format!("cut to {length}"), &original[..length]);
    }
    assert!(tally.accepted > 0, "{tally:?}");
}
