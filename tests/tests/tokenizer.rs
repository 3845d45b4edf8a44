//! The runtime's tokenizer gives llama.cpp's ids for the tokenizers of GGUF files, and gives texts
//! back. Goldens: golden/tokenizer_llamacpp.py.

use std::collections::BTreeMap;
use std::path::Path;

use limbeck::text::Tokenizer;
use limbeck_compiler::import::gguf::{Gguf, GgufTokenizer};
use limbeck_compiler::import::map::FileBytes;
use limbeck_tests::{SMOLLM2, golden, student};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden().join(name)).unwrap()
}

fn tokenizer(gguf: &Path) -> Tokenizer {
    let file = FileBytes::open(gguf).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let tokenizer = GgufTokenizer::read(&gguf).unwrap().unwrap();
    Tokenizer::from_bytes(tokenizer.json.as_bytes()).unwrap()
}

fn assert_ids(name: &str, tokenizer: &Tokenizer, strings: &[String], expected: &[Vec<u32>]) {
    assert_eq!(strings.len(), expected.len());
    for (text, expected) in strings.iter().zip(expected) {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
    }
}

#[test]
fn small_vocabularies_give_the_ids_of_llama_cpp() {
    let strings: Vec<String> = serde_json::from_slice(&read("tokenizer_strings.json")).unwrap();
    let vocabs: BTreeMap<String, Vec<Vec<u32>>> =
        serde_json::from_slice(&read("tokenizer_vocabs.json")).unwrap();
    for (name, expected) in &vocabs {
        let tokenizer = tokenizer(&golden().join("gguf").join(format!("{name}.gguf")));
        assert_ids(name, &tokenizer, &strings, expected);
    }
}

#[test]
fn smollm2_gives_the_ids_of_llama_cpp() {
    let Some(path) = student(SMOLLM2) else { return };
    let strings: Vec<String> = serde_json::from_slice(&read("tokenizer_strings.json")).unwrap();
    let tokenizer = tokenizer(&path);
    let expected: Vec<Vec<u32>> = serde_json::from_slice(&read("tokenizer_smollm2.json")).unwrap();
    assert_ids("smollm2", &tokenizer, &strings, &expected);
    assert_eq!(tokenizer.vocab_size(), 49_152);
    for id in 0..49_152 {
        let token = tokenizer.id_to_token(id).unwrap();
        assert_eq!(tokenizer.token_to_id(&token), Some(id));
    }
}
