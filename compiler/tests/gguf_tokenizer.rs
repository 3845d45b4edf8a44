//! GGUF tokenizers give llama.cpp's own ids. Goldens: tests/golden/tokenizer_llamacpp.py.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use limbeck_compiler::import::gguf::{Gguf, GgufTokenizer};
use limbeck_compiler::import::map::FileBytes;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

fn read(path: &Path) -> (GgufTokenizer, Tokenizer) {
    let file = FileBytes::open(path).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let read = GgufTokenizer::read(&gguf).unwrap().unwrap();
    let tokenizer = read.json.parse().unwrap();
    (read, tokenizer)
}

/// All strings whose ids differ, as lines for people.
fn mismatches(tokenizer: &Tokenizer, strings: &[String], expected: &[Vec<u32>]) -> Vec<String> {
    assert_eq!(strings.len(), expected.len());
    let differing = strings.iter().zip(expected).filter_map(|(text, expected)| {
        let ids = tokenizer.encode(text.as_str(), false).unwrap();
        (ids.get_ids() != expected)
            .then(|| format!("{text:?}\n  ours      {:?}\n  llama.cpp {expected:?}", ids.get_ids()))
    });
    differing.collect()
}

#[test]
fn small_vocabularies_of_every_kind_give_the_ids_of_llama_cpp() {
    let strings: Vec<String> = json("tokenizer_strings.json");
    let vocabs: BTreeMap<String, Vec<Vec<u32>>> = json("tokenizer_vocabs.json");
    assert!(vocabs.len() >= 7);
    let mut failures = Vec::new();
    for (name, expected) in &vocabs {
        let (_, tokenizer) = read(&golden("gguf").join(format!("{name}.gguf")));
        let differing = mismatches(&tokenizer, &strings, expected);
        failures.extend(differing.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn spm_decodes_what_it_encoded() {
    let strings: Vec<String> = json("tokenizer_strings.json");
    for name in ["vocab_spm", "vocab_spm_no_prefix"] {
        let (_, tokenizer) = read(&golden("gguf").join(format!("{name}.gguf")));
        for text in &strings {
            let encoding = tokenizer.encode(text.as_str(), false).unwrap();
            // A prefix space after a special token and a literal U+2581 cannot be told from spaces.
            let special = tokenizer.get_added_tokens_decoder();
            if encoding.get_ids().iter().any(|id| special.contains_key(id)) || text.contains('▁')
            {
                continue;
            }
            let decoded = tokenizer.decode(encoding.get_ids(), false).unwrap();
            assert_eq!(&decoded, text, "{name}");
        }
    }
}

#[test]
fn special_ids_come_from_the_file() {
    let (spm, tokenizer) = read(&golden("gguf/vocab_spm.gguf"));
    assert_eq!((spm.bos, spm.eos, spm.unk, spm.pad), (Some(1), Some(2), Some(0), None));
    assert!(spm.add_bos && !spm.add_eos);
    assert_eq!(spm.end_of_generation, [2]);
    let ids = tokenizer.encode("", true).unwrap();
    assert_eq!(ids.get_ids(), [1]);

    let (llama, tokenizer) = read(&golden("gguf/vocab_llama_bpe.gguf"));
    assert!(llama.add_bos);
    let (bos, eos) = (llama.bos.unwrap(), llama.eos.unwrap());
    assert_eq!(tokenizer.id_to_token(bos).as_deref(), Some("<|endoftext|>"));
    assert_eq!(tokenizer.id_to_token(eos).as_deref(), Some("<|im_end|>"));
    assert_eq!(llama.end_of_generation, [bos.min(eos), bos.max(eos)]);
    let ids = tokenizer.encode("a", true).unwrap();
    assert_eq!(ids.get_ids().first(), Some(&bos));

    let (qwen, _) = read(&golden("gguf/vocab_qwen2.gguf"));
    assert!(!qwen.add_bos && !qwen.add_eos);
    assert_eq!(qwen.chat_template, None);
}

/// The fetched student, or why it is not here. With `LIMBECK_REQUIRE=1` it must be here.
fn smollm2() -> Option<PathBuf> {
    let students = std::env::var_os("LIMBECK_STUDENTS")
        .map_or_else(|| root().join("target/students"), PathBuf::from);
    let path = students.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.is_file() {
        return Some(path);
    }
    let reason = format!("{} is not there: run `cargo xtask fetch`", path.display());
    assert!(std::env::var("LIMBECK_REQUIRE").as_deref() != Ok("1"), "{reason}");
    eprintln!("skipped: {reason}");
    None
}

#[test]
fn smollm2_gives_the_ids_of_llama_cpp() {
    let Some(path) = smollm2() else { return };
    let (_, tokenizer) = read(&path);
    let strings: Vec<String> = json("tokenizer_strings.json");
    let expected: Vec<Vec<u32>> = json("tokenizer_smollm2.json");
    assert!(strings.len() >= 200);
    let failures = mismatches(&tokenizer, &strings, &expected);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn smollm2_decodes_what_it_encoded() {
    let Some(path) = smollm2() else { return };
    let (read, tokenizer) = read(&path);
    let vocab = tokenizer.get_vocab(false);
    let strings: Vec<String> = json("tokenizer_strings.json");
    let mut exact = 0;
    for text in &strings {
        let encoding = tokenizer.encode(text.as_str(), false).unwrap();
        let decoded = tokenizer.decode(encoding.get_ids(), false).unwrap();
        // SmolLM2 has no tokens for some bytes, and nothing can bring those back.
        let kept: Vec<u8> = text.bytes().filter(|&b| vocab.contains_key(&stand_in(b))).collect();
        assert_eq!(decoded, String::from_utf8_lossy(&kept));
        exact += usize::from(&decoded == text);
    }
    assert!(exact >= strings.len() - 8, "{exact} of {}", strings.len());
    assert_eq!((read.bos, read.eos, read.unk, read.pad), (Some(1), Some(2), Some(0), Some(2)));
    assert!(!read.add_bos && !read.add_eos);
    assert_eq!(read.end_of_generation, [0, 2]);
    assert_eq!(read.vocab_size, 49_152);
    assert!(read.chat_template.unwrap().contains("<|im_start|>"));
}

/// GPT-2's printable character for a byte.
fn stand_in(byte: u8) -> String {
    let plain = |b: u8| b.is_ascii_graphic() || (b >= 0xA1 && b != 0xAD);
    if plain(byte) {
        return char::from(byte).to_string();
    }
    let rank = (0..byte).filter(|&b| !plain(b)).count() as u32;
    char::from_u32(256 + rank).unwrap().to_string()
}
