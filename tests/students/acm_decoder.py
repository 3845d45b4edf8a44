"""Writes a seeded student to measure budgets with: a Qwen2-shaped decoder of the 0.5B class whose
MLPs are Adaptive Computation Modules of four learners.

    python tests/students/acm_decoder.py FOLDER [--layers 24] [--vocab 32768] [--seed 0]

The weights are random and mean nothing; shapes, bytes and multiply-adds are those of a real one. The
gates spread: every token has an importance of its own (log-normal), learners gain less and less, so
that a price of 0 takes all learners, and choices fall one after the other as the price grows. There is
no tokenizer: `limbeck bench` and `limbeck forward` work with ids.

Needs numpy. The checkpoint takes about 0.8 GB (f16).
"""

import argparse
import json
from pathlib import Path

import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, LEARNERS = 896, 4864, 14, 2, 4
HEAD_DIM = HIDDEN // HEADS
# Relative error with k learners.
ERRORS = np.array([1.0, 0.6, 0.4, 0.28, 0.2])
# Standard deviation of the logarithm of a token's importance, and of what is each choice's own.
IMPORTANCE, OWN = 0.8, 0.05


def tensors(layers, vocab):
    """Name, shape and what fills it."""
    yield "model.embed_tokens.weight", (vocab, HIDDEN), "noise"
    yield "model.norm.weight", (HIDDEN,), "ones"
    for i in range(layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (HIDDEN,), "ones"
        yield at + "post_attention_layernorm.weight", (HIDDEN,), "ones"
        for part, rows in [("q", HIDDEN), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)]:
            yield at + f"self_attn.{part}_proj.weight", (rows, HIDDEN), "noise"
            yield at + f"self_attn.{part}_proj.bias", (rows,), "zeros"
        yield at + "self_attn.o_proj.weight", (HIDDEN, HIDDEN), "noise"
        yield at + "mlp.acm.w1", (INNER, HIDDEN), "noise"
        yield at + "mlp.acm.w1_gate", (INNER, HIDDEN), "noise"
        yield at + "mlp.acm.w2", (INNER, HIDDEN), "down"
        yield at + "mlp.acm.gate.weight", (LEARNERS + 1, HIDDEN), "gate"
        yield at + "mlp.acm.gate.bias", (LEARNERS + 1,), "gate_bias"


def fill(rng, shape, kind):
    noise = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    if kind == "ones":
        return np.ones(shape, np.float32)
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    if kind == "gate_bias":
        return np.log(ERRORS).astype(np.float32)
    if kind == "gate":
        # The input is normalised: a row of this length gives a number of this deviation.
        return (IMPORTANCE * noise(1, HIDDEN) + OWN * noise(*shape)) / HIDDEN**0.5
    if kind == "down":
        return noise(*shape) / INNER**0.5
    return noise(*shape) / shape[-1] ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": args.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": args.vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "acm": {"mlp": {"learners": LEARNERS, "gate_transform": "neg_exp2"}},
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, end = {}, 0
    for name, shape, _ in tensors(args.layers, args.vocab):
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    rng = np.random.default_rng(args.seed)
    with open(args.folder / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for _, shape, kind in tensors(args.layers, args.vocab):
            file.write(fill(rng, shape, kind).astype("<f2").tobytes())
    print(f"wrote {args.folder} ({end / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
