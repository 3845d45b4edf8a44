"""Tiny GGUF students, written by the package `gguf` in llama.cpp's own names and row order.

    python tests/golden/gguf_students.py

Writes gguf/tiny_llama.gguf, gguf/tiny_qwen2.gguf and gguf/tiny_qwen3.gguf. Every value follows
from its tensor's Hugging Face name and its place, see `pattern`, so that readers need no golden.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

HERE = Path(__file__).parent / "gguf"
HIDDEN, MLP, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 32, 64, 4, 2, 8, 2


def pattern(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """k / 64 with |k| <= 127, exact in every storage used here: every block of 32 begins with 127 / 64,
    so that a Q8_0 scale is 1 / 64."""
    seed = sum(name.encode())
    flat = (np.arange(np.prod(shape)) * 131 + seed) % 251 - 125
    values = flat.reshape(shape).astype(np.float32) / 64
    if len(shape) == 2:
        values[:, ::32] = 127 / 64
    return values


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """The row order of llama.cpp's converter for RoPE on alternating pairs."""
    half = weights.shape[0] // heads // 2
    paired = weights.reshape(heads, 2, half, *weights.shape[1:]).swapaxes(1, 2)
    return paired.reshape(weights.shape)


class Student:
    def __init__(self, architecture: str, vocab: int) -> None:
        self.architecture = architecture
        self.vocab = vocab
        self.out = gguf.GGUFWriter(HERE / f"tiny_{architecture}.gguf", architecture)
        self.out.add_block_count(LAYERS)
        self.out.add_context_length(128)
        self.out.add_embedding_length(HIDDEN)
        self.out.add_feed_forward_length(MLP)
        self.out.add_head_count(HEADS)
        self.out.add_head_count_kv(KV_HEADS)
        self.out.add_layer_norm_rms_eps(1e-5)

    def add(self, name: str, hf: str, shape: tuple[int, ...], kind: Type, heads: int = 0) -> None:
        values = pattern(hf, shape)
        if heads and self.architecture == "llama":
            values = permute(values, heads)
        if kind == Type.F32:
            self.out.add_tensor(name, values)
        else:
            self.out.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def layers(self, bias: bool, qk_norm: bool, kind: Type) -> None:
        q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        for layer in range(LAYERS):
            for name, hf, rows, cols, heads in [
                ("attn_q", "self_attn.q_proj", q, HIDDEN, HEADS),
                ("attn_k", "self_attn.k_proj", kv, HIDDEN, KV_HEADS),
                ("attn_v", "self_attn.v_proj", kv, HIDDEN, 0),
                ("attn_output", "self_attn.o_proj", HIDDEN, q, 0),
                ("ffn_gate", "mlp.gate_proj", MLP, HIDDEN, 0),
                ("ffn_up", "mlp.up_proj", MLP, HIDDEN, 0),
                ("ffn_down", "mlp.down_proj", HIDDEN, MLP, 0),
            ]:
                base, hf = f"blk.{layer}.{name}", f"model.layers.{layer}.{hf}"
                self.add(f"{base}.weight", f"{hf}.weight", (rows, cols), kind, heads)
                attention = name.startswith("attn") and (
                    self.architecture == "llama" or name != "attn_output"
                )
                if bias and attention:
                    self.add(f"{base}.bias", f"{hf}.bias", (rows,), Type.F32, heads)
            norms = [("attn_norm", "input_layernorm", HIDDEN)]
            norms += [("ffn_norm", "post_attention_layernorm", HIDDEN)]
            if qk_norm:
                norms += [("attn_q_norm", "self_attn.q_norm", HEAD_DIM)]
                norms += [("attn_k_norm", "self_attn.k_norm", HEAD_DIM)]
            for name, hf, size in norms:
                hf = f"model.layers.{layer}.{hf}.weight"
                self.add(f"blk.{layer}.{name}.weight", hf, (size,), Type.F32)

    def finish(self, tied: bool, embedding: Type) -> None:
        table = (self.vocab, HIDDEN)
        self.add("token_embd.weight", "model.embed_tokens.weight", table, embedding)
        self.add("output_norm.weight", "model.norm.weight", (HIDDEN,), Type.F32)
        if not tied:
            self.add("output.weight", "lm_head.weight", table, Type.BF16)
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def main() -> None:
    HERE.mkdir(exist_ok=True)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["▁", "a", "▁a"]
    llama = Student("llama", len(tokens))
    llama.out.add_name("Tiny Llama")
    llama.out.add_license("apache-2.0")
    llama.out.add_rope_freq_base(500000.0)
    llama.out.add_rope_dimension_count(HEAD_DIM)
    llama.out.add_tensor("rope_freqs.weight", np.array([1, 1.5, 4, 8], dtype=np.float32))
    llama.out.add_tokenizer_model("llama")
    llama.out.add_token_list(tokens)
    llama.out.add_token_scores([0.0] * 259 + [-1.0, -2.0, -0.5])
    llama.out.add_token_types([2, 3, 3] + [6] * 256 + [1] * 3)
    llama.out.add_chat_template("{{ messages }}")
    llama.layers(bias=True, qk_norm=False, kind=Type.Q8_0)
    llama.finish(tied=False, embedding=Type.F16)

    qwen2 = Student("qwen2", 40)
    qwen2.out.add_rope_freq_base(1000000.0)
    qwen2.out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    qwen2.out.add_rope_scaling_factor(4.0)
    qwen2.out.add_rope_scaling_orig_ctx_len(32)
    qwen2.layers(bias=True, qk_norm=False, kind=Type.F32)
    qwen2.finish(tied=True, embedding=Type.F32)

    qwen3 = Student("qwen3", 40)
    qwen3.out.add_key_length(HEAD_DIM)
    qwen3.out.add_value_length(HEAD_DIM)
    qwen3.out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    qwen3.out.add_rope_scaling_factor(2.0)
    qwen3.layers(bias=False, qk_norm=True, kind=Type.BF16)
    qwen3.finish(tied=True, embedding=Type.Q8_0)


if __name__ == "__main__":
    main()
