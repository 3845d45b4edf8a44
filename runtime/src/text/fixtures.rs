//! Tiny tokenizers of each kind, for tests.

use super::tokenizer::Tokenizer;

/// Every fixture.
pub(super) const ALL: [fn() -> Tokenizer; 5] =
    [byte_level, byte_fallback, wordpiece, metaspace, words];

/// Byte-level BPE; the id of a byte is the byte, then come a few merges and special tokens.
pub(super) fn byte_level() -> Tokenizer {
    let mut characters: Vec<char> = Vec::new();
    let mut other = 0x100u32..;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let code = if printable { u32::from(byte) } else { other.next().unwrap() };
        characters.push(char::from_u32(code).unwrap());
    }
    let mut tokens: Vec<String> = characters.into_iter().map(String::from).collect();
    tokens.extend(["he", "ll", "llo", "Ġhe", "<|im_start|>", "<|im_end|>"].map(String::from));
    let vocab: serde_json::Map<_, _> =
        tokens.into_iter().zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let added = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let file = serde_json::json!({
        "version": "1.0",
        "added_tokens": [added(260, "<|im_start|>"), added(261, "<|im_end|>")],
        "pre_tokenizer": bytes,
        "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab,
            "merges": [["h", "e"], ["l", "l"], ["ll", "o"], ["Ġ", "he"]]},
    });
    Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
}

/// BPE with byte tokens, as the first Llamas have it.
pub(super) const BYTE_FALLBACK: &str = r#"{"version":"1.0","added_tokens":[
{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","byte_fallback":true,"fuse_unk":true,"continuing_subword_prefix":null,
"vocab":{"<s>":0,"▁":1,"a":2,"b":3,"▁a":4,"<0xC3>":5,"<0xA9>":6,"<0xF0>":7,"<0x9F>":8,
"<0x98>":9,"<0x80>":10,"▁▁":11,"é":12},"merges":[["▁","a"],["▁","▁"]]}}"#;

/// [`BYTE_FALLBACK`], read.
pub(super) fn byte_fallback() -> Tokenizer {
    Tokenizer::from_bytes(BYTE_FALLBACK.as_bytes()).unwrap()
}

/// WordPiece, as BERT has it.
pub(super) fn wordpiece() -> Tokenizer {
    let file = r###"{"version":"1.0","added_tokens":[
{"id":0,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
{"id":1,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
"pre_tokenizer":{"type":"BertPreTokenizer"},
"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
"vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":2,"un":3,"##do":4,"it":5,".":6,"'":7,"n't":8,"##s":9,"do":10,"not":11}}}"###;
    Tokenizer::from_bytes(file.as_bytes()).unwrap()
}

/// Unigram with the metaspace decoder, as T5 has it.
fn metaspace() -> Tokenizer {
    let file = r#"{"version":"1.0","added_tokens":[],
"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁",-1.0],["▁a",-2.0],["b",-2.5],["▁▁",-3.0]]}}"#;
    Tokenizer::from_bytes(file.as_bytes()).unwrap()
}

/// Whole words, without a decoder.
fn words() -> Tokenizer {
    let file = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
"model":{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"one":1,"two":2,"":3}}}"#;
    Tokenizer::from_bytes(file.as_bytes()).unwrap()
}
