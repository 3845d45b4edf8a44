//! Tiny GGUF students read as Hugging Face would have them. Fixtures and the pattern of their
//! values: tests/golden/gguf_students.py; goldens of the block types: tests/golden/gguf_dequant.py.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use limbeck_compiler::import::gguf::{BlockType, GgufCheckpoint};
use limbeck_compiler::import::tensor::{RowOrder, Tensor};
use limbeck_plan::Values;
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn pattern(name: &str, index: usize, cols: usize, matrix: bool) -> f32 {
    if matrix && (index % cols).is_multiple_of(32) {
        return 127.0 / 64.0;
    }
    let seed: usize = name.bytes().map(usize::from).sum();
    (((index * 131 + seed) % 251) as f32 - 125.0) / 64.0
}

/// Every tensor, read in pieces of three rows, holds its pattern.
fn check_values(checkpoint: &GgufCheckpoint, tensors: usize) {
    assert_eq!(checkpoint.tensor_names().count(), tensors);
    for name in checkpoint.tensor_names() {
        let tensor = checkpoint.tensor(name).unwrap();
        let mut values = Vec::new();
        for start in (0..tensor.rows()).step_by(3) {
            let end = tensor.rows().min(start + 3);
            tensor.read_rows(start..end, &mut values).unwrap();
        }
        assert_eq!(values.len(), tensor.rows() * tensor.cols());
        let matrix = tensor.shape().len() == 2;
        for (i, &value) in values.iter().enumerate() {
            assert_eq!(value, pattern(name, i, tensor.cols(), matrix), "{name} {i}");
        }
    }
}

#[test]
fn llama_in_hugging_face_order() {
    let checkpoint = GgufCheckpoint::open(&golden("gguf/tiny_llama.gguf")).unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": null,
        "max_position_embeddings": 128,
        "vocab_size": 262,
        "tie_word_embeddings": false,
        "attention_bias": true,
        "mlp_bias": false,
    });
    assert_eq!(checkpoint.config(), &expected);
    assert_eq!(checkpoint.rope_freq_factors(), Some(&[1.0, 1.5, 4.0, 8.0][..]));
    assert_eq!(checkpoint.name(), Some("Tiny Llama"));
    assert_eq!(checkpoint.licence(), Some("apache-2.0"));
    let tokenizer = checkpoint.tokenizer().unwrap();
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
    check_values(&checkpoint, 3 + 2 * 13);

    let query = checkpoint.tensor("model.layers.1.self_attn.q_proj.weight").unwrap();
    let rows = query.quant_rows(5..9).unwrap();
    assert_eq!(rows.values, Values::Q8);
    assert!(rows.scales.iter().all(|scale| scale.to_f32() == 1.0 / 64.0));
    assert_eq!(f32::from(rows.q[33]), 64.0 * pattern(query.name(), 6 * 32 + 1, 32, true));
    assert!(checkpoint.tensor("model.layers.2.self_attn.q_proj.weight").is_none());
}

#[test]
fn qwen2_has_biases_and_yarn() {
    let checkpoint = GgufCheckpoint::open(&golden("gguf/tiny_qwen2.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["attention_bias"], true);
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
    });
    assert_eq!(config["rope_scaling"], yarn);
    assert!(checkpoint.tokenizer().is_none());
    assert!(checkpoint.tensor("model.layers.0.self_attn.o_proj.bias").is_none());
    check_values(&checkpoint, 2 + 2 * 12);
}

#[test]
fn qwen3_has_query_and_key_norms() {
    let checkpoint = GgufCheckpoint::open(&golden("gguf/tiny_qwen3.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!(config["model_type"], "qwen3");
    assert_eq!(config["rope_theta"], 10_000.0);
    assert_eq!(config["rope_scaling"], json!({ "rope_type": "linear", "factor": 2.0 }));
    assert_eq!(config["attention_bias"], false);
    check_values(&checkpoint, 2 + 2 * 11);
}

#[test]
fn every_block_type_gives_the_values_of_the_gguf_package() {
    let bytes = std::fs::read(golden("gguf_dequant.json")).unwrap();
    let types: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(types.len(), BlockType::ALL.len());
    for kind in BlockType::ALL {
        let golden = &types[kind.name()];
        let blocks = unhex(&golden["blocks"]);
        let shape = vec![2, 256];
        let tensor = Tensor::new(kind.name(), shape, kind, &blocks, RowOrder::Stored).unwrap();
        let mut values = Vec::new();
        tensor.read_rows(0..1, &mut values).unwrap();
        tensor.read_rows(1..2, &mut values).unwrap();
        let bits: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(bits, unhex(&golden["values"]), "{}", kind.name());
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}
