"""Tiny seeded text and embedding checkpoints with the outputs that transformers gives for them.

Each case becomes a folder tiny/NAME with a checkpoint (config.json, safetensors) and expected.npz:

- decoders: input_ids [48] i64, logits [48, vocab] f32;
- encoders: input_ids, attention_mask [3, 20] i64, last_hidden_state [3, 20, hidden] f32 (zero where
  the mask is zero), embedding [3, hidden] f32 (pooled and normalised).

Computed in f32 with eager attention from the weights as stored. `layout` says which generation of
transformers the config imitates: 4 (rope_theta and rope_scaling) or 5 (rope_parameters). The
rewritten config is loaded again, so both layouts are known to mean the same to transformers.

Run by `cargo xtask golden`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

OUT = Path(__file__).parent / "tiny"
TOKENS = 48

# 48 tokens run past every original_max_position_embeddings below, so that scaling acts.
SMALL = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


DECODERS = {
    "llama": dict(
        model=LlamaForCausalLM,
        config=LlamaConfig(
            **SMALL,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            rope_parameters=rope(
                "llama3",
                theta=500.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        dtype=torch.float32,
        layout=4,
    ),
    "llama_bias": dict(
        model=LlamaForCausalLM,
        config=LlamaConfig(
            **SMALL,
            head_dim=24,
            rms_norm_eps=1e-6,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
            rope_parameters=rope("default"),
        ),
        dtype=torch.bfloat16,
        layout=5,
    ),
    "llama_linear": dict(
        model=LlamaForCausalLM,
        config=LlamaConfig(
            **SMALL,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters=rope("linear", factor=4.0),
        ),
        dtype=torch.float16,
        layout=4,
    ),
    "llama_yarn": dict(
        model=LlamaForCausalLM,
        config=LlamaConfig(
            **{**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 4},
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            rope_parameters=rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=32,
                beta_fast=4.0,
                beta_slow=1.0,
            ),
        ),
        dtype=torch.bfloat16,
        layout=5,
        shard_bytes=100_000,
    ),
    "qwen2": dict(
        model=Qwen2ForCausalLM,
        config=Qwen2Config(
            **SMALL,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            rope_parameters=rope("default", theta=1_000_000.0),
        ),
        dtype=torch.float32,
        layout=4,
    ),
    "qwen3": dict(
        model=Qwen3ForCausalLM,
        config=Qwen3Config(
            **SMALL,
            head_dim=32,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            rope_parameters=rope("default", theta=1_000_000.0),
        ),
        dtype=torch.bfloat16,
        layout=5,
    ),
}

ENCODERS = {"bert": "mean", "bert_cls": "cls"}


def randomise(model, seed):
    """Weights far from their usual start, so that every part of the model moves the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.copy_(1.0 + 0.2 * noise)  # norms
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)  # biases
            elif "embed" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)


def as_transformers_4(config):
    """The same config in the words of transformers 4."""
    config = dict(config)
    scaling = dict(config.pop("rope_parameters"))
    config["rope_theta"] = scaling.pop("rope_theta")
    kind = scaling.pop("rope_type")
    # The oldest files say `type`; later ones say `rope_type`.
    key = "type" if kind == "linear" else "rope_type"
    config["rope_scaling"] = None if kind == "default" else {key: kind, **scaling}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.48.0"
    return config


def write_config(folder, layout):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if layout == 4:
        config = as_transformers_4(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def decoder(name, case, seed):
    folder = fresh(name)
    model = case["model"](case["config"])
    randomise(model, seed)
    model = model.to(case["dtype"])
    model.save_pretrained(folder, max_shard_size=case.get("shard_bytes", "1GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_config(folder, case["layout"])

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    meant, read = case["config"].rope_parameters, model.config.rope_parameters
    assert {**read, **meant} == read, f"{name}: the rewritten config says {read}, not {meant}"
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, case["config"].vocab_size, TOKENS)
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    np.savez(folder / "expected.npz", input_ids=ids.astype(np.int64), logits=logits)
    print(f"{name}: logits of norm {np.linalg.norm(logits):.3f}")


def encoder(name, pooling, seed):
    folder = fresh(name)
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        pad_token_id=0,
    )
    model = BertModel(config)
    randomise(model, seed)
    model.save_pretrained(folder)
    write_config(folder, layout=5)
    modules = [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "2_Normalize"),
    ]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    (folder / "1_Pooling").mkdir()
    pooled = {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled, indent=2) + "\n")

    model = BertModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rng = np.random.default_rng(seed)
    mask = (np.arange(20)[None] < np.array([20, 7, 13])[:, None]).astype(np.int64)
    ids = rng.integers(1, config.vocab_size, (3, 20)) * mask
    with torch.no_grad():
        hidden = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    weights = torch.tensor(mask, dtype=torch.float32)[..., None]
    if pooling == "mean":
        vector = (hidden * weights).sum(1) / weights.sum(1)
    else:
        vector = hidden[:, 0]
    vector = torch.nn.functional.normalize(vector, dim=-1)
    np.savez(
        folder / "expected.npz",
        input_ids=ids.astype(np.int64),
        attention_mask=mask,
        last_hidden_state=(hidden * weights).numpy(),
        embedding=vector.numpy(),
    )
    print(f"{name}: {pooling} pooling")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(DECODERS.items(), start=1):
        decoder(name, case, seed)
    for seed, (name, pooling) in enumerate(ENCODERS.items(), start=101):
        encoder(name, pooling, seed)
    for path in OUT.rglob("*.safetensors"):
        path.chmod(0o644)
