"""Tiny seeded mixtures of experts with the logits that PyTorch gives for them.

Each case becomes a folder moe/NAME with a checkpoint and expected.npz: input_ids [48] i64, logits
[48, vocab] f32, and, where experts have a capacity that drops tokens, logits_capacity.

- mixtral, qwen2_moe, qwen3_moe: transformers, as `save_pretrained` writes them; mixtral_stacked: the
  same as mixtral with the experts as transformers keeps them in memory;
- gguf_*: the same architectures in GGUF, in llama.cpp's names and row order;
- llava_*: LLaVA-MoD's language part, whose routing is written out below after DeepSpeed 0.9.5's
  `sharded_moe.py` without its noise and random token selection. A few tensors of a vision tower lie
  beside, which an importer leaves out.

Computed in f32 with eager attention from bf16 weights.

    python tests/golden/tiny_moe.py
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

OUT = Path(__file__).parent / "moe"
TOKENS = 48
SMALL = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    rms_norm_eps=1e-6,
)


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
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
            parameter.copy_(parameter.bfloat16().float())


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def input_ids(seed):
    return np.random.default_rng(seed).integers(0, SMALL["vocab_size"], TOKENS)


def logits_of(model, ids):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()


def expect(folder, ids, **logits):
    np.savez(folder / "expected.npz", input_ids=ids.astype(np.int64), **logits)
    norms = {key: float(np.linalg.norm(value)) for key, value in logits.items()}
    print(f"{folder.name}: norms {norms}")


# transformers ------------------------------------------------------------------------------------

MIXTRAL = (MixtralForCausalLM, MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2))
QWEN2 = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16)
QWEN3 = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, head_dim=16)
TRANSFORMERS = {
    "mixtral": MIXTRAL,
    "qwen2_moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(
            **{**SMALL, "num_hidden_layers": 4},
            **QWEN2,
            shared_expert_intermediate_size=40,
            decoder_sparse_step=2,
            norm_topk_prob=False,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3_moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**SMALL, **QWEN3, norm_topk_prob=True, mlp_only_layers=[1]),
    ),
}


def eager(model_class, config, seed):
    config._attn_implementation = "eager"
    model = model_class(config)
    randomise(model, seed)
    return model


def transformers_case(name, seed):
    model = eager(*TRANSFORMERS[name], seed)
    folder = fresh(name)
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = input_ids(seed)
    again = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    expect(folder, ids, logits=logits_of(again, ids))
    if name == "mixtral":
        stacked = fresh("mixtral_stacked")
        shutil.copy(folder / "config.json", stacked)
        shutil.copy(folder / "expected.npz", stacked)
        tensors = {k: v.bfloat16().contiguous() for k, v in again.state_dict().items()}
        save_file(tensors, stacked / "model.safetensors")


# GGUF --------------------------------------------------------------------------------------------

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def permute(weight, heads):
    """The row order of llama.cpp's converter for RoPE on alternating pairs."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_case(name, architecture, model_class, config, seed):
    model = eager(model_class, config, seed)
    folder = fresh(name)
    out = gguf.GGUFWriter(folder / "model.gguf", architecture)
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_expert_used_count(config.num_experts_per_tok)
    if architecture == "llama":
        out.add_expert_count(config.num_local_experts)
        out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    else:
        out.add_expert_count(config.num_experts)
        out.add_expert_feed_forward_length(config.moe_intermediate_size)
    if architecture == "qwen2moe":
        out.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if architecture == "qwen3moe":
        out.add_key_length(config.head_dim)
        out.add_value_length(config.head_dim)

    def add(name, value):
        value = value.numpy()
        if value.ndim == 1 or "_inp" in name:
            out.add_tensor(name, value)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            out.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)

    for key, value in model.state_dict().items():
        if key in TOP:
            add(TOP[key], value)
            continue
        _, _, layer, part = key.split(".", 3)
        at = f"blk.{layer}."
        if part == "mlp.experts.gate_up_proj":
            gate, up = value.chunk(2, dim=1)
            add(at + "ffn_gate_exps.weight", gate.contiguous())
            add(at + "ffn_up_exps.weight", up.contiguous())
        elif part.startswith("self_attn.") and part.split(".")[1] in ("q_proj", "k_proj", "v_proj"):
            letter = part.split(".")[1][0]
            heads = config.num_attention_heads if letter == "q" else config.num_key_value_heads
            if architecture == "llama" and letter != "v":
                value = permute(value, heads)
            add(f"{at}attn_{letter}.{part.split('.')[-1]}", value)
        elif part == "mlp.shared_expert_gate.weight":
            add(at + NAMES[part], value.squeeze(0))
        else:
            add(at + NAMES[part], value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    ids = input_ids(seed)
    expect(folder, ids, logits=logits_of(model, ids))


# LLaVA-MoD ---------------------------------------------------------------------------------------


class Gate(nn.Module):
    def __init__(self, hidden, experts):
        super().__init__()
        self.wg = nn.Linear(hidden, experts, bias=False)


class Experts(nn.Module):
    def __init__(self, experts):
        super().__init__()
        self.deepspeed_experts = nn.ModuleList(experts)


class MoeLayer(nn.Module):
    def __init__(self, hidden, experts):
        super().__init__()
        self.gate = Gate(hidden, len(experts))
        self.experts = Experts(experts)


class Moe(nn.Module):
    """DeepSpeed's MoE with deterministic routing; with `capacity_factor` None nothing is dropped."""

    def __init__(self, expert, hidden, experts, top_k, use_residual):
        super().__init__()
        self.deepspeed_moe = MoeLayer(hidden, [expert() for _ in range(experts)])
        self.top_k = top_k
        self.capacity_factor, self.min_capacity, self.dropped = None, 0, 0
        if use_residual:
            self.mlp = expert()
            self.coefficient = nn.Linear(hidden, 2)
        self.use_residual = use_residual

    def keep(self, mask, before):
        """Clears what is beyond an expert's capacity; `before` [experts] are queued already."""
        if self.capacity_factor is None:
            return mask
        tokens, experts = mask.shape
        factor = torch.tensor(self.capacity_factor * self.top_k)
        capacity = max(int(torch.ceil((tokens / experts) * factor)), self.min_capacity)
        location = torch.cumsum(mask, dim=0) - 1 + before
        kept = mask * (location < capacity)
        self.dropped += int(mask.sum() - kept.sum())
        return kept

    def combine(self, gates):
        """Weights [tokens, experts] of the experts' results."""
        experts = gates.shape[1]
        first = torch.argmax(gates, dim=1)
        mask1 = nn.functional.one_hot(first, experts)
        if self.top_k == 1:
            return gates * self.keep(mask1, 0)
        second = torch.argmax(gates.masked_fill(mask1.bool(), -1.0), dim=1)
        mask2 = nn.functional.one_hot(second, experts)
        kept1, kept2 = self.keep(mask1, 0), self.keep(mask2, mask1.sum(0))
        weights = gates * (kept1 + kept2)
        sum_ = weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
        return weights / sum_

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        gates = torch.softmax(x.float() @ self.deepspeed_moe.gate.wg.weight.float().T, dim=1)
        weights = self.combine(gates)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.deepspeed_moe.experts.deepspeed_experts):
            y = y + weights[:, index : index + 1] * expert(x)
        if self.use_residual:
            c = torch.softmax(self.coefficient(x), dim=-1)
            y = y * c[:, :1] + self.mlp(x) * c[:, 1:]
        return y.reshape(shape)


def case(
    layers=4,
    tied=True,
    experts=4,
    top_k=2,
    heads=(4, 2),
    hidden=32,
    inner=32,
    residual=False,
    factor=2.0,
    **moe,
):
    return dict(
        layers=layers,
        tied=tied,
        experts=experts,
        top_k=top_k,
        heads=heads,
        hidden=hidden,
        inner=inner,
        residual=residual,
        factor=factor,
        moe={"moe_mode": "sparse", "moe_layers_idx": None, **moe},
        kind="moe_llava_qwen2",
    )


# The configurations A to I of the same structure, smaller.
LLAVA = {
    "a": case(),
    "b": {**case(layers=5, tied=False), "kind": "moe_llava_qwen1_5"},
    "c": case(layers=6, heads=(8, 8), hidden=48, inner=48),
    "d": case(experts=8, factor=1.0),
    "e": case(top_k=1, factor=1.5),
    "f": case(residual=True),
    "g": case(experts=[4, 2], moe_mode="custom", moe_layers_idx=[1, 3]),
    "h": case(moe_mode="second_half"),
    "i": case(tied=False),
}


def moe_layers(moe, layers):
    return moe["moe_layers_idx"] or {
        "sparse": list(range(layers))[::2],
        "second_half": list(range(layers // 2, layers)),
    }[moe["moe_mode"]]


def engineer(model):
    """Layer 0: all experts tie for every token. Layer 2: one expert gets all tokens, and the others
    tie for the second place."""
    with torch.no_grad():
        model.model.layers[0].mlp.deepspeed_moe.gate.wg.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 30.0
        wg = model.model.layers[2].mlp.deepspeed_moe.gate.wg.weight
        wg.zero_()
        wg[2, 0] = 1.0


def llava_case(letter, seed):
    c = LLAVA[letter]
    sizes = dict(
        num_hidden_layers=c["layers"],
        hidden_size=c["hidden"],
        intermediate_size=c["inner"],
        num_attention_heads=c["heads"][0],
        num_key_value_heads=c["heads"][1],
        tie_word_embeddings=c["tied"],
    )
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    config = Qwen2Config(**{**SMALL, **sizes}, rope_parameters=rope)
    config._attn_implementation = "eager"
    model = Qwen2ForCausalLM(config)
    kind = type(model.model.layers[0].mlp)
    listed = moe_layers(c["moe"], c["layers"])
    counts = c["experts"] if isinstance(c["experts"], list) else [c["experts"]] * len(listed)
    mixtures = []
    for layer, experts in zip(listed, counts):
        moe = Moe(lambda: kind(config), c["hidden"], experts, c["top_k"], c["residual"])
        model.model.layers[layer].mlp = moe
        mixtures.append(moe)
    randomise(model, seed)
    if letter == "i":
        engineer(model)

    folder = fresh(f"llava_{letter}")
    tensors = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}
    if c["tied"]:
        tensors.pop("lm_head.weight")
    vision = torch.ones(4, 4, dtype=torch.bfloat16)
    for name in ["image_tower.image_tower.vision_model.x", "mm_projector.image_spatial_proj.0"]:
        tensors[f"model.{name}.weight"] = vision.clone()
    save_file(tensors, folder / "model.safetensors")
    text = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    text.pop("rope_parameters")
    text.pop("layer_types")
    text |= {
        "architectures": ["MoELLaVAQwen2ForCausalLM"],
        "model_type": c["kind"],
        "rope_theta": 1_000_000.0,
        "torch_dtype": "bfloat16",
        "mm_image_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": 1024,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "pad",
        "moe": {
            "moe_enable": True,
            **c["moe"],
            "num_experts": counts,
            "top_k_experts": c["top_k"],
            "capacity_factor": 1.5,
            "eval_capacity_factor": c["factor"],
            "min_capacity": 0,
            "use_residual": c["residual"],
            "router_aux_loss_coef": 0.01,
            "ep_size": 1,
            "train_modules": ["gate_proj", "up_proj", "down_proj", "wg"],
        },
    }
    (folder / "config.json").write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
    ids = input_ids(seed)
    logits = {"logits": logits_of(model, ids)}
    for moe in mixtures:
        moe.capacity_factor = c["factor"]
    limited = logits_of(model, ids)
    dropped = sum(moe.dropped for moe in mixtures)
    assert (dropped > 0) == (letter in "de"), f"{letter}: {dropped} dropped"
    if dropped:
        logits["logits_capacity"] = limited
    expect(folder, ids, **logits)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, name in enumerate(TRANSFORMERS, start=1):
        transformers_case(name, seed)
    all_sparse = dict(norm_topk_prob=False, shared_expert_intermediate_size=40)
    gguf_case("gguf_mixtral", "llama", *MIXTRAL, 21)
    gguf_case(
        "gguf_qwen2moe", "qwen2moe", Qwen2MoeForCausalLM,
        Qwen2MoeConfig(**SMALL, **QWEN2, **all_sparse), 22,
    )
    gguf_case(
        "gguf_qwen3moe", "qwen3moe", Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**SMALL, **QWEN3, norm_topk_prob=True), 23,
    )
    for seed, letter in enumerate(LLAVA, start=41):
        llava_case(letter, seed)
    for path in OUT.rglob("*.safetensors"):
        path.chmod(0o644)
