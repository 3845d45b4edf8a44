//! Broken and hostile GGUF files: an error that names where, and never a panic.

use std::ops::Range;
use std::time::{Duration, Instant};

use limbeck_compiler::error::ErrorKind;
use limbeck_compiler::import::gguf::{Gguf, GgufCheckpoint};
use limbeck_compiler::import::map::FileBytes;
use tokenizers::Tokenizer;

/// Writes a GGUF file and remembers where each number of the header stands.
#[derive(Clone, Default)]
struct Writer {
    bytes: Vec<u8>,
    fields: Vec<Range<usize>>,
}

impl Writer {
    fn field(&mut self, bytes: &[u8]) {
        self.fields.push(self.bytes.len()..self.bytes.len() + bytes.len());
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.field(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.field(&value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }
}

#[derive(Clone)]
enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    I32s(Vec<i32>),
    Nested(usize),
}

struct Entry {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    bytes: usize,
}

/// A student that opens, ready to be spoiled.
struct Student {
    version: u32,
    metadata: Vec<(&'static str, Meta)>,
    tensors: Vec<Entry>,
}

const TOKENS: [&str; 10] =
    ["<|endoftext|>", "<|im_end|>", "a", "b", "c", "Ġ", "ab", "Ġa", "abc", "<think>"];

impl Student {
    fn new() -> Student {
        let metadata = vec![
            ("general.architecture", Meta::Text("qwen3")),
            ("general.alignment", Meta::U32(16)),
            ("qwen3.block_count", Meta::U32(1)),
            ("qwen3.context_length", Meta::U32(16)),
            ("qwen3.embedding_length", Meta::U32(4)),
            ("qwen3.feed_forward_length", Meta::U32(32)),
            ("qwen3.attention.head_count", Meta::U32(2)),
            ("qwen3.attention.head_count_kv", Meta::I32s(vec![1])),
            ("qwen3.attention.key_length", Meta::U32(16)),
            ("qwen3.attention.layer_norm_rms_epsilon", Meta::F32(1e-6)),
            ("qwen3.rope.freq_base", Meta::F32(1e6)),
            ("tokenizer.ggml.model", Meta::Text("gpt2")),
            ("tokenizer.ggml.pre", Meta::Text("qwen2")),
            ("tokenizer.ggml.tokens", Meta::Texts(TOKENS.to_vec())),
            ("tokenizer.ggml.token_type", Meta::I32s(vec![3, 3, 1, 1, 1, 1, 1, 1, 1, 4])),
            ("tokenizer.ggml.merges", Meta::Texts(vec!["a b", "Ġ a", "ab c"])),
            ("tokenizer.ggml.bos_token_id", Meta::U32(0)),
            ("tokenizer.ggml.eos_token_id", Meta::U32(1)),
            ("tokenizer.ggml.add_bos_token", Meta::Bool(true)),
            ("tokenizer.chat_template", Meta::Text("{{ messages }}")),
        ];
        let mut student = Student { version: 3, metadata, tensors: Vec::new() };
        student.tensor("token_embd.weight", &[4, 10], 0, 160);
        student.tensor("output_norm.weight", &[4], 0, 16);
        for (name, dims, kind, bytes) in [
            ("attn_norm", &[4][..], 0, 16),
            ("attn_q", &[4, 32], 1, 256),
            ("attn_k", &[4, 16], 30, 128),
            ("attn_v", &[4, 16], 0, 256),
            ("attn_output", &[32, 4], 8, 136),
            ("attn_q_norm", &[16], 0, 64),
            ("attn_k_norm", &[16], 0, 64),
            ("ffn_norm", &[4], 0, 16),
            ("ffn_gate", &[4, 32], 0, 512),
            ("ffn_up", &[4, 32], 0, 512),
            ("ffn_down", &[32, 4], 3, 80),
        ] {
            student.tensor(&format!("blk.0.{name}.weight"), dims, kind, bytes);
        }
        student
    }

    fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, bytes: usize) {
        self.tensors.push(Entry { name: name.into(), dims: dims.to_vec(), kind, bytes });
    }

    fn set(mut self, key: &'static str, value: Meta) -> Student {
        self.metadata.retain(|(name, _)| *name != key);
        self.metadata.push((key, value));
        self
    }

    fn without(mut self, key: &str) -> Student {
        self.metadata.retain(|(name, _)| *name != key);
        self.tensors.retain(|tensor| tensor.name != key);
        self
    }

    /// The file, and how many of its bytes are header.
    fn write(&self) -> (Writer, usize) {
        let mut out = Writer::default();
        out.field(b"GGUF");
        out.u32(self.version);
        out.u64(self.tensors.len() as u64);
        out.u64(self.metadata.len() as u64);
        for (key, value) in &self.metadata {
            out.string(key);
            write_meta(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            out.string(&tensor.name);
            out.u32(tensor.dims.len() as u32);
            for &dim in &tensor.dims {
                out.u64(dim);
            }
            out.u32(tensor.kind);
            out.u64(offset);
            offset = (offset + tensor.bytes as u64).next_multiple_of(16);
        }
        let header = out.bytes.len();
        let data = header.next_multiple_of(16) + offset as usize;
        // 0x2C3D and its like are small, finite floats in every type used.
        out.bytes.resize(data, 0x2C);
        (out, header)
    }
}

fn write_meta(out: &mut Writer, value: &Meta) {
    match value {
        Meta::U32(value) => {
            out.u32(4);
            out.u32(*value);
        }
        Meta::F32(value) => {
            out.u32(6);
            out.field(&value.to_le_bytes());
        }
        Meta::Bool(value) => {
            out.u32(7);
            out.field(&[u8::from(*value)]);
        }
        Meta::Text(text) => {
            out.u32(8);
            out.string(text);
        }
        Meta::Texts(texts) => {
            out.u32(9);
            out.u32(8);
            out.u64(texts.len() as u64);
            texts.iter().for_each(|text| out.string(text));
        }
        Meta::I32s(values) => {
            out.u32(9);
            out.u32(5);
            out.u64(values.len() as u64);
            values.iter().for_each(|value| out.field(&value.to_le_bytes()));
        }
        Meta::Nested(depth) => {
            out.u32(9);
            for _ in 0..*depth {
                out.u32(9);
                out.u64(1);
            }
            out.u32(4);
            out.u64(0);
        }
    }
}

/// Opens a file and uses all of it. A file that opens must give tensors and a tokenizer that work.
fn open(bytes: &[u8]) -> Result<(), (ErrorKind, String)> {
    let start = Instant::now();
    let result = GgufCheckpoint::new(FileBytes::from(bytes.to_vec()));
    let result = match result {
        Ok(checkpoint) => {
            let mut values = Vec::new();
            for name in checkpoint.tensor_names() {
                let tensor = checkpoint.tensor(name).expect("a listed tensor exists");
                values.clear();
                tensor.read_rows(0..tensor.rows(), &mut values).expect("its rows can be read");
                assert_eq!(values.len(), tensor.rows() * tensor.cols());
                tensor.quant_rows(0..tensor.rows());
            }
            if let Some(tokenizer) = checkpoint.tokenizer() {
                let loaded: Tokenizer = tokenizer.json.parse().expect("the tokenizer loads");
                loaded.encode("abc a<|im_end|> 1\n", true).expect("it encodes");
            }
            Ok(())
        }
        Err(error) => {
            assert!(!error.location().is_empty(), "no place: {error}");
            Err((error.kind(), error.to_string()))
        }
    };
    assert!(start.elapsed() < Duration::from_secs(1));
    result
}

fn error(student: &Student) -> (ErrorKind, String) {
    open(&student.write().0.bytes).expect_err("the student must be refused")
}

/// Small numbers that look random and never change (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn the_unspoiled_student_opens_in_both_versions() {
    assert_eq!(open(&Student::new().write().0.bytes), Ok(()));
    let old = Student { version: 2, ..Student::new() };
    assert_eq!(open(&old.write().0.bytes), Ok(()));
}

#[test]
fn header_fields_of_any_value_never_panic() {
    let (student, _) = Student::new().write();
    let mut noise = Noise(1);
    let mut refused = 0;
    let mut tried = 0;
    for field in &student.fields {
        let zeros = vec![0; field.len()];
        let mut one = zeros.clone();
        one[0] = 1;
        let max = vec![0xFF; field.len()];
        let mut signed_max = max.clone();
        signed_max[field.len() - 1] = 0x7F;
        let random = (0..4).map(|_| (0..field.len()).map(|_| noise.next() as u8).collect());
        let huge_counts = (0..field.len()).map(|byte| {
            let mut bytes = zeros.clone();
            bytes[byte] = 0x80;
            bytes
        });
        let values = [zeros.clone(), one, max, signed_max].into_iter();
        for value in values.chain(random).chain(huge_counts) {
            let mut bytes = student.bytes.clone();
            bytes[field.clone()].copy_from_slice(&value);
            refused += usize::from(open(&bytes).is_err());
            tried += 1;
        }
    }
    assert!(tried > 1_500, "{tried}");
    assert!(refused * 10 > tried * 7, "{refused} of {tried}");
}

#[test]
fn every_truncation_is_refused() {
    let (student, header) = Student::new().write();
    for length in (0..header + 64).chain([student.bytes.len() - 17, student.bytes.len() - 1]) {
        // The last tensor is followed by padding alone.
        let refused = open(&student.bytes[..length]).is_err();
        assert!(refused, "a file of {length} bytes opened");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let (student, header) = Student::new().write();
    let mut noise = Noise(2);
    for _ in 0..4_000 {
        let mut bytes = student.bytes.clone();
        for _ in 0..1 + noise.below(3) {
            bytes[noise.below(header)] ^= 1 << noise.below(8);
        }
        let _ = open(&bytes);
    }
    for name in ["tiny_llama.gguf", "vocab_spm.gguf", "vocab_llama_bpe.gguf"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/gguf/");
        let original = std::fs::read(format!("{path}{name}")).unwrap();
        for _ in 0..100 {
            let mut bytes = original.clone();
            let at = noise.below(bytes.len().min(8_000));
            bytes[at] ^= 1 << noise.below(8);
            let _ = open(&bytes);
        }
    }
}

#[test]
fn spliced_bytes_never_panic() {
    let (student, header) = Student::new().write();
    let mut noise = Noise(3);
    for _ in 0..1_000 {
        let mut bytes = student.bytes.clone();
        let (from, to) = (noise.below(header), noise.below(header));
        let piece: Vec<u8> = bytes[from..header.min(from + noise.below(40))].to_vec();
        let replaced = noise.below(40).min(bytes.len() - to);
        bytes.splice(to..to + replaced, piece);
        let _ = open(&bytes);
    }
}

#[test]
fn containers_of_another_kind_are_refused_by_name() {
    let (kind, message) = error(&Student { version: 1, ..Student::new() });
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("version 1"), "{message}");
    let (kind, message) = error(&Student { version: 3u32.swap_bytes(), ..Student::new() });
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("big-endian"), "{message}");
    let (kind, message) = open(b"PK\x03\x04 and so on").unwrap_err();
    assert_eq!(kind, ErrorKind::Format);
    assert!(message.contains("not a GGUF file"), "{message}");
}

/// `(spoiled student, kind, words of the message)`.
fn refusals() -> Vec<(Student, ErrorKind, &'static [&'static str])> {
    use ErrorKind::{Format, Mismatch, Missing, Unsupported};
    let new = Student::new;
    let with_tensor = |name: &str, dims: &[u64], kind, bytes| {
        let mut student = new().without(name);
        student.tensor(name, dims, kind, bytes);
        student
    };
    let twice = |index: usize| {
        let mut student = new();
        let again = student.metadata[index].clone();
        student.metadata.push(again);
        student
    };
    let mut overlapping = new();
    overlapping.tensors[0].bytes = 16;
    let mut same_name = new();
    same_name.tensor("output_norm.weight", &[4], 0, 16);
    vec![
        (new().set("general.architecture", Meta::Text("mamba")), Unsupported, &["mamba"]),
        (new().without("general.architecture"), Missing, &["general.architecture"]),
        (new().set("qwen3.expert_count", Meta::U32(8)), Unsupported, &["qwen3.expert_count"]),
        (new().set("qwen3.new_idea", Meta::U32(8)), Unsupported, &["qwen3.new_idea"]),
        (new().set("qwen3.block_count", Meta::U32(1 << 30)), Mismatch, &["qwen3.block_count"]),
        (new().set("qwen3.block_count", Meta::U32(2)), Missing, &["blk.1.attn_norm.weight"]),
        (new().set("qwen3.block_count", Meta::Text("2")), Format, &["qwen3.block_count"]),
        (new().without("qwen3.context_length"), Missing, &["qwen3.context_length"]),
        (
            new().set("qwen3.attention.head_count_kv", Meta::I32s(vec![1, 2])),
            Unsupported,
            &["head_count_kv", "layers"],
        ),
        (new().set("qwen3.attention.head_count_kv", Meta::U32(2)), Mismatch, &["attn_k.weight"]),
        (new().set("qwen3.attention.head_count", Meta::U32(u32::MAX)), Mismatch, &["attn_q"]),
        (new().set("qwen3.attention.value_length", Meta::U32(8)), Unsupported, &["value_length"]),
        (new().set("qwen3.rope.scaling.type", Meta::Text("longrope")), Unsupported, &["longrope"]),
        (new().set("qwen3.rope.freq_base", Meta::F32(f32::NAN)), Format, &["freq_base"]),
        (new().set("general.alignment", Meta::U32(24)), Format, &["general.alignment", "24"]),
        (new().set("general.alignment", Meta::U32(0)), Format, &["general.alignment"]),
        (new().set("extra", Meta::Nested(9)), Format, &["extra", "nested"]),
        (twice(3), Format, &["qwen3.context_length", "twice"]),
        (same_name, Format, &["output_norm.weight", "same name"]),
        (overlapping, Format, &["overlaps", "token_embd.weight"]),
        (with_tensor("blk.0.attn_q.weight", &[4, 32], 20, 72), Unsupported, &["attn_q", "IQ4_NL"]),
        (with_tensor("blk.0.attn_q.weight", &[4, 32], 5, 72), Format, &["attn_q", "type 5"]),
        (with_tensor("blk.0.attn_q.weight", &[4, 32], 2, 72), Format, &["attn_q", "Q4_0"]),
        (with_tensor("blk.0.attn_q.weight", &[4, 31], 0, 496), Mismatch, &["attn_q", "[31, 4]"]),
        (with_tensor("blk.0.attn_q.weight", &[4, 0], 0, 0), Format, &["attn_q", "dimension 0"]),
        (with_tensor("blk.0.extra.weight", &[4], 0, 16), Unsupported, &["blk.0.extra.weight"]),
        (with_tensor("blk.0.attn_q.bias", &[32], 0, 128), Missing, &["blk.0.attn_k.bias"]),
        (new().without("blk.0.ffn_up.weight"), Missing, &["blk.0.ffn_up.weight"]),
        (new().set("tokenizer.ggml.model", Meta::Text("t5")), Unsupported, &["model t5"]),
        (new().set("tokenizer.ggml.pre", Meta::Text("tekken")), Unsupported, &["tekken"]),
        (new().without("tokenizer.ggml.merges"), Missing, &["tokenizer.ggml.merges"]),
        (new().set("tokenizer.ggml.merges", Meta::Texts(vec!["ab"])), Format, &["merge 0"]),
        (new().set("tokenizer.ggml.merges", Meta::Texts(vec!["b a"])), Format, &["merge 0"]),
        (new().set("tokenizer.ggml.tokens", Meta::Texts(vec!["a", "a"])), Format, &["0 and 1"]),
        (new().set("tokenizer.ggml.tokens", Meta::Texts(vec!["a", ""])), Unsupported, &["token 1"]),
        (
            new()
                .set("tokenizer.ggml.tokens", Meta::Texts([&TOKENS[..9], &["<x>"]].concat()))
                .set("tokenizer.ggml.token_type", Meta::I32s(vec![1; 9])),
            Format,
            &["tokenizer.ggml.token_type", "9 values"],
        ),
        (new().set("tokenizer.ggml.eos_token_id", Meta::U32(10)), Format, &["eos_token_id"]),
        (new().without("tokenizer.ggml.bos_token_id"), Missing, &["bos_token_id"]),
        (new().set("tokenizer.ggml.model", Meta::Text("llama")), Missing, &["scores"]),
    ]
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (student, kind, words) in refusals() {
        let (found, message) = error(&student);
        assert_eq!(found, kind, "{message}");
        for word in words {
            assert!(message.contains(word), "{word} is not in: {message}");
        }
    }
}

#[test]
fn a_vocabulary_of_another_size_is_refused() {
    let mut student = Student::new().without("token_embd.weight");
    student.tensor("token_embd.weight", &[4, 11], 0, 176);
    let (kind, message) = error(&student);
    assert_eq!(kind, ErrorKind::Mismatch);
    assert!(message.contains("10 tokens") && message.contains("11 rows"), "{message}");
}

#[test]
fn a_container_without_tensors_may_end_with_its_header() {
    let student = Student { tensors: Vec::new(), ..Student::new() };
    let (out, header) = student.write();
    let gguf = Gguf::parse(&out.bytes[..header]).unwrap();
    assert_eq!(gguf.tensors().len(), 0);
    assert_eq!(gguf.str("tokenizer.ggml.pre").unwrap(), Some("qwen2"));
}
