//! The model against the tokenizers crate's own, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::*;

fn read(file: &str) -> Result<Bpe> {
    Bpe::new(serde_json::from_str(file).unwrap())
}

fn assert_same(file: &str, texts: &[String]) {
    let (ours, theirs) = (read(file).unwrap(), serde_json::from_str::<BPE>(file).unwrap());
    for text in texts {
        assert_eq!(ours.tokenize(text).ok(), theirs.tokenize(text).ok(), "{text:?} with {file}");
    }
    assert_eq!(ours.vocab(), Model::get_vocab(&theirs));
    assert_eq!(ours.vocab_size(), theirs.get_vocab_size());
    for (token, id) in ours.vocab() {
        assert_eq!(ours.token_to_id(&token), Some(id));
        assert_eq!(ours.id_to_token(id), Some(token));
    }
}

/// Characters, of one byte to four, that random models and texts are made of.
const CHARACTERS: [&str; 8] = ["a", "b", "c", "▁", "é", "😀", "日", "\""];

/// Names of byte tokens for every byte of [`CHARACTERS`] but those of the emoji's last one.
fn byte_tokens() -> Vec<String> {
    let bytes: std::collections::BTreeSet<u8> =
        CHARACTERS.iter().flat_map(|character| character.bytes()).collect();
    bytes.into_iter().filter(|&byte| byte != 0x80).map(|b| format!("<0x{b:02X}>")).collect()
}

/// A random model: some of the characters, and merges of random tokens, the same pair sometimes
/// twice; ids have gaps and are in no order.
fn model() -> impl Strategy<Value = Value> {
    let merges = prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..40);
    let known = prop::collection::vec(any::<bool>(), CHARACTERS.len());
    let unknown = prop::sample::select(vec![None, Some("<unk>"), Some("<missing>")]);
    let suffix = prop::sample::select(vec![None, Some("</w>")]);
    let options = (unknown, suffix, any::<(bool, bool, bool, bool, bool)>());
    (merges, known, options, 1u32..90_000).prop_map(|(merges, known, options, step)| {
        let (unknown, suffix, (fuse, bytes, ignore, lines, vocab_first)) = options;
        let mut tokens = vec!["<unk>".to_owned()];
        let known = CHARACTERS.iter().zip(known).filter(|(_, known)| *known);
        tokens.extend(known.map(|(character, _)| character.to_string()));
        if suffix.is_some() {
            tokens.push("a</w>".to_owned());
            tokens.push("é</w>".to_owned());
        }
        tokens.extend(byte_tokens());
        let mut pairs = Vec::new();
        for (left, right) in merges {
            let (left, right) = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let merged = format!("{left}{right}");
            if !tokens.contains(&merged) {
                tokens.push(merged);
            }
            pairs.push(if lines { json!(format!("{left} {right}")) } else { json!([left, right]) });
        }
        if lines {
            pairs.insert(0, json!("#version: 0.2"));
        }
        // Multiples of a number that is prime to the modulus: distinct, and in no order.
        let ids = (0u32..).map(|i| (i * step) % 1_000_003);
        let vocab: serde_json::Map<_, _> =
            tokens.into_iter().zip(ids).map(|(token, id)| (token, json!(id))).collect();
        let mut model = json!({"type": "BPE", "unk_token": unknown, "fuse_unk": fuse,
            "byte_fallback": bytes, "ignore_merges": ignore, "end_of_word_suffix": suffix});
        let both = [("vocab", Value::from(vocab)), ("merges", Value::from(pairs))];
        for i in [usize::from(!vocab_first), usize::from(vocab_first)] {
            model[both[i].0] = both[i].1.clone();
        }
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The tokenizers crate's own model is the reference.
    #[test]
    fn gives_the_tokens_of_the_tokenizers_crate(
        model in model(),
        words in prop::collection::vec(prop::sample::select(&CHARACTERS[..]), 1..600),
        cut in prop::collection::vec(1usize..40, 0..20),
    ) {
        let mut rest = &words[..];
        let mut texts = vec![words.concat(), String::new()];
        for cut in cut {
            let (text, after) = rest.split_at(cut.min(rest.len()));
            texts.push(text.concat());
            rest = after;
        }
        assert_same(&model.to_string(), &texts);
    }

    #[test]
    fn any_fields_give_a_model_or_an_error(
        vocab in "\\{(\"[a-c]{0,2}\":[0-9]{1,2},?){0,6}\\}",
        merges in "\\[(\"[a-c ]{0,4}\",?|\\[\"[a-c]\",\"[a-c]\"(,\"a\")?\\],?){0,4}\\]",
        text in "[a-d]{0,20}",
    ) {
        let file = format!(r#"{{"type":"BPE","vocab":{vocab},"merges":{merges}}}"#);
        if let Ok(fields) = serde_json::from_str(&file) {
            match Bpe::new(fields) {
                Ok(bpe) => {
                    let theirs = serde_json::from_str::<BPE>(&file).unwrap();
                    prop_assert_eq!(bpe.tokenize(&text).ok(), theirs.tokenize(&text).ok());
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Plan),
            }
        }
    }
}

/// Equal ranks go leftmost first, and a stale place in the queue does no merge.
#[test]
fn order_of_merges() {
    let file = r#"{"vocab":{"a":0,"b":1,"aa":2,"ab":3,"aab":4,"aaaa":5},
        "merges":[["a","a"],["a","b"],["aa","b"],["a","ab"],["aa","aa"]]}"#;
    let texts = ["aaa", "aaab", "ab", "aab", "aaaaaaaab", "baaab"].map(str::to_owned);
    assert_same(file, &texts);
    let ids = |text: &str| -> Vec<u32> {
        read(file).unwrap().tokenize(text).unwrap().iter().map(|token| token.id).collect()
    };
    assert_eq!(ids("aaa"), [2, 0]);
    assert_eq!(ids("aaab"), [2, 3]);
    assert_eq!(ids("aab"), [4]);
    assert_eq!(ids("aaaaa"), [5, 0]);
}

/// A word of a megabyte in which everything merges: a scan per merge would take hours.
#[test]
fn long_words_are_no_quadratic_work() {
    let mut tokens = vec!["a".to_owned(), "b".to_owned()];
    let mut merges = Vec::new();
    for _ in 0..12 {
        let last = tokens.last().cloned().unwrap();
        merges.push(json!([last, last]));
        tokens.push(format!("{last}{last}"));
    }
    merges.push(json!(["a", "b"]));
    tokens.push("ab".to_owned());
    let vocab: serde_json::Map<_, _> =
        tokens.into_iter().zip(0u32..).map(|(token, id)| (token, json!(id))).collect();
    let file = json!({"vocab": vocab, "merges": merges}).to_string();
    let long = "b".repeat(1 << 20);
    assert_same(&file, &[long.clone(), format!("{long}a{long}"), "ab".repeat(1 << 18)]);
}

#[test]
fn ids_of_any_size() {
    let bpe = read(r#"{"vocab":{"b":4294967295,"a":7},"merges":[]}"#).unwrap();
    assert_eq!(bpe.id_to_token(u32::MAX).as_deref(), Some("b"));
    assert_eq!((bpe.id_to_token(7).as_deref(), bpe.id_to_token(0)), (Some("a"), None));
    assert_eq!((bpe.token_to_id("b"), bpe.token_to_id("ab")), (Some(u32::MAX), None));
}

#[test]
fn what_is_damaged_or_unsupported_is_refused() {
    let long = "x".repeat(MAX_ADDED + 1);
    let cases = [
        (json!({"vocab": {"a": 0}}), ErrorKind::Plan),
        (json!({"merges": []}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "b": 0}, "merges": []}), ErrorKind::Plan),
        (json!({"vocab": {"a": -1}, "merges": []}), ErrorKind::Plan),
        (json!({"vocab": {"a": 4_294_967_296u64}, "merges": []}), ErrorKind::Plan),
        (json!({"vocab": ["a"], "merges": []}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0}, "merges": {}}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0}, "merges": [["a", "a"]]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": [["a"]]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": [["a", "a", "a"]]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": [["a", 1]]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": ["aa"]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": ["a a a"]}), ErrorKind::Plan),
        (json!({"vocab": {"a": 0, "aa": 1}, "merges": [1]}), ErrorKind::Plan),
        (json!({"vocab": {}, "merges": [], "dropout": 0.1}), ErrorKind::Unsupported),
        (
            json!({"vocab": {}, "merges": [], "continuing_subword_prefix": "##"}),
            ErrorKind::Unsupported,
        ),
        (json!({"vocab": {}, "merges": [], "unk_token": long}), ErrorKind::Unsupported),
        (json!({"vocab": {}, "merges": [], "end_of_word_suffix": long}), ErrorKind::Unsupported),
    ];
    for (file, kind) in cases {
        let error = read(&file.to_string()).err().unwrap_or_else(|| panic!("accepts {file}"));
        assert_eq!((error.kind(), error.place()), (kind, Some("model")), "{file}");
    }
    let twice = r#"{"vocab":{"a":0,"a":1},"merges":[]}"#;
    assert_eq!(read(twice).err().unwrap().kind(), ErrorKind::Plan);
    for accepted in [
        json!({"vocab": {}, "merges": []}),
        json!({"vocab": {"a": 0}, "merges": [], "dropout": 0.0, "continuing_subword_prefix": ""}),
    ] {
        assert_same(&accepted.to_string(), &["a".to_owned(), "b".to_owned()]);
    }
}
