"""Logits and greedy tokens of SmolLM2-135M-Instruct by transformers, on the weights of the GGUF
file dequantised to f32.

smollm2.npz:

- input_ids [256] i64: English text;
- columns [128] i64, logits [256, 128] f32: the logits at those vocabulary columns;
- norms [256] f32: the norm of each position's whole logits;
- prompt_P [n] i64, greedy_P [64] i64, for P in 0..5: a prompt and the tokens that always taking
  the largest logit gives (end tokens are taken like any other);
- margins [5] f32: the smallest gap between the best two logits over each greedy run.

Run by `cargo xtask golden`, which passes the folder of fetched students.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent
TOKENS, COLUMNS, GREEDY = 256, 128, 64

TEXT = """The first still that I ever saw stood in a barn behind my uncle's house. It was made of \
copper, green at the seams, and it had the shape of an onion with a long bent neck. In winter, when \
the apples had turned to cider and the cider had stopped working, he filled it to the shoulder, lit \
a fire of ash wood beneath, and sat down to wait. Nothing happened for an hour. Then a drop formed \
at the end of the pipe, hung there, and fell into the bowl.

"What goes in is ten gallons," he said, "and what comes out is one. The trick is to know which one."

He threw away the first cupful, because it smelled of paint, and the last, because it smelled of wet \
dog. What lay between he kept in a jar with a glass stopper, and he wrote the year on it in pencil: \
1974, 1975, 1978. There was no jar for 1976 or 1977. When I asked why, he shrugged and told me that \
the fire had been too hot. A hot fire is quick, but it carries everything over, the good and the bad \
alike; a slow fire leaves behind whatever does not belong. I have thought about that sentence more \
often than about anything I was taught at school, and I have found that it is true of letters, of \
laws, and of most conversations after midnight."""


def chat(question):
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    chat("Name three things that float on water."),
    chat("How do I make tea?"),
    "Once upon a time, in a village between two rivers, there lived a clockmaker who",
]


def field(reader, key):
    return reader.fields[key].contents()


def tokenizer_of(reader):
    """Byte-level BPE with the smollm pre-tokenizer: single digits, then the GPT-2 pattern."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    bpe = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds) if kind == 3])
    return tokenizer


def split_halves(weight, heads):
    """GGUF stores each head's rows as pairs (2i, 2i + 1); transformers wants (i, i + half)."""
    rows, columns = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


def model_of(reader):
    def get(key):
        return field(reader, f"llama.{key}")

    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    layers = get("block_count")
    tensors = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings="output.weight" not in tensors,
    )
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    state = {
        "model.embed_tokens.weight": tensors.pop("token_embd.weight"),
        "model.norm.weight": tensors.pop("output_norm.weight"),
    }
    state["lm_head.weight"] = tensors.pop("output.weight", state["model.embed_tokens.weight"])
    for layer in range(layers):
        for short, name in names.items():
            weight = tensors.pop(f"blk.{layer}.{short}.weight")
            if short in ("attn_q", "attn_k"):
                weight = split_halves(weight, heads if short == "attn_q" else kv_heads)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    assert not tensors, f"tensors left over: {sorted(tensors)}"
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    model.load_state_dict({k: torch.tensor(np.array(v)) for k, v in state.items()})
    return model


def greedy(model, prompt):
    tokens, gaps, past = list(prompt), [], None
    step = torch.tensor([tokens])
    for _ in range(GREEDY):
        out = model(step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = torch.topk(out.logits[0, -1], 2)
        gaps.append(float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        step = torch.tensor([tokens[-1:]])
    return tokens[len(prompt) :], min(gaps)


def main(students):
    reader = GGUFReader(students / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = tokenizer_of(reader)
    model = model_of(reader)
    ids = tokenizer.encode(TEXT).ids[:TOKENS]
    assert len(ids) == TOKENS, f"the text has only {len(ids)} tokens"
    rng = np.random.default_rng(1)
    columns = np.sort(rng.choice(model.config.vocab_size, COLUMNS, replace=False))
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
        runs = [(tokenizer.encode(p).ids, *greedy(model, tokenizer.encode(p).ids)) for p in PROMPTS]

    shifted = logits - logits.max(1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -logprobs[np.arange(TOKENS - 1), ids[1:]].mean()
    print(f"smollm2: perplexity {np.exp(loss):.2f} on {TOKENS} tokens")
    for prompt, (_, tokens, gap) in zip(PROMPTS, runs):
        print(f"  {prompt[-40:]!r} -> {tokenizer.decode(tokens)!r} (margin {gap:.4f})")
    arrays = {f"prompt_{i}": np.array(p, np.int64) for i, (p, _, _) in enumerate(runs)}
    arrays |= {f"greedy_{i}": np.array(t, np.int64) for i, (_, t, _) in enumerate(runs)}
    np.savez(
        OUT / "smollm2.npz",
        input_ids=np.array(ids, np.int64),
        columns=columns.astype(np.int64),
        logits=logits[:, columns],
        norms=np.linalg.norm(logits.astype(np.float64), axis=1).astype(np.float32),
        margins=np.array([gap for _, _, gap in runs], np.float32),
        **arrays,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
