"""A Qwen2 in the dimensions of Qwen2.5-0.5B with seeded random weights, as a GGUF file in f16.

    python qwen2_gguf.py TOKENIZER.gguf OUT.gguf

The tokens are those of another GGUF file with a BPE model, padded with tokens that no text gives.
"""

import sys

import gguf
import numpy as np

VOCABULARY, HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 151936, 896, 4864, 24, 14, 2, 64
Q, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM


def tokenizer(out: gguf.GGUFWriter, source: str) -> None:
    reader = gguf.GGUFReader(source)

    def field(name: str):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    tokens, kinds = field("tokens"), field("token_type")
    unused = range(VOCABULARY - len(tokens))
    out.add_tokenizer_model(field("model"))
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([*tokens, *(f"[unused {i}]" for i in unused)])
    out.add_token_types([*kinds, *(gguf.TokenType.UNUSED for _ in unused)])
    out.add_token_merges(field("merges"))
    out.add_bos_token_id(field("bos_token_id"))
    out.add_eos_token_id(field("eos_token_id"))
    out.add_add_bos_token(False)


def main() -> None:
    out, random = gguf.GGUFWriter(sys.argv[2], "qwen2"), np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * scale
        out.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str) -> None:
        out.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))

    out.add_name("Qwen2 of 0.5B with random weights")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_block_count(LAYERS)
    out.add_context_length(32768)
    out.add_embedding_length(HIDDEN)
    out.add_feed_forward_length(MLP)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(1e6)
    tokenizer(out, sys.argv[1])
    matrix("token_embd", VOCABULARY, HIDDEN, 0.02)
    norm("output_norm")
    for layer in range(LAYERS):
        base = f"blk.{layer}"
        norm(f"{base}.attn_norm")
        norm(f"{base}.ffn_norm")
        for name, rows, columns in [
            ("attn_q", Q, HIDDEN),
            ("attn_k", KV, HIDDEN),
            ("attn_v", KV, HIDDEN),
            ("attn_output", HIDDEN, Q),
            ("ffn_gate", MLP, HIDDEN),
            ("ffn_up", MLP, HIDDEN),
            ("ffn_down", HIDDEN, MLP),
        ]:
            matrix(f"{base}.{name}", rows, columns, columns**-0.5)
        for name, rows in [("attn_q", Q), ("attn_k", KV), ("attn_v", KV)]:
            out.add_tensor(f"{base}.{name}.bias", random.standard_normal(rows, dtype=np.float32) * 0.1)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


main()
