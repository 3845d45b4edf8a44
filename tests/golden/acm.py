"""Tiny seeded students with Adaptive Computation Modules and what PyTorch gives for them.

The oracle is the paper's sum: every learner is computed for every token, h_k is the sum of the first
k, and a token takes the h_k that its gate chooses at a price. Each case becomes a folder acm/NAME
with a checkpoint and expected.npz: the inputs, prices [3], and for each price i choices_i
[sites, tokens] i64, margins_i [sites, tokens] f32 (best score less the second best), outputs_i.

- decoder, decoder_affine: Qwen2 and Llama in Limbeck's own layout, some modules in some layers;
  outputs are logits [tokens, vocab]
- bert: modules on MLPs and some projections; outputs are last_hidden_state [2 * 16, hidden]
- vit, vit_gelu: the released layout; outputs are logits [3, classes]
- vit_dense: torchvision's layout without modules; expected.npz has pixel_values and logits

Weights are stored in f16 and computed with in f32. Run by `cargo xtask golden`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

OUT = Path(__file__).parent / "acm"
ACTIVATIONS = {"identity": lambda x: x, "gelu": F.gelu, "silu": F.silu}


class Acm(nn.Module):
    """A module of `learners` blocks of `block` units: [.., k] -> [.., m]."""

    def __init__(
        self,
        name,
        k,
        m,
        learners,
        activation,
        first=0,
        gated=False,
        hidden_bias=True,
        out_bias="none",
        depth=3,
        transform="identity",
        block=32,
    ):
        super().__init__()
        self.name, self.learners, self.first, self.block = name, learners, first, block
        self.activation, self.transform, self.out_bias = activation, transform, out_bias
        hidden, choices = block * learners, learners + 1 - first
        self.w1 = nn.Parameter(torch.empty(hidden, k))
        self.w1_gate = nn.Parameter(torch.empty(hidden, k)) if gated else None
        self.b1 = nn.Parameter(torch.empty(hidden)) if hidden_bias else None
        self.b1_gate = nn.Parameter(torch.empty(hidden)) if gated and hidden_bias else None
        self.w2 = nn.Parameter(torch.empty(hidden, m))
        rows = {"none": 0, "one": 1}.get(out_bias, learners + 1)
        self.b2 = nn.Parameter(torch.empty(rows, m)) if rows else None
        sizes = [k] + [16] * (depth - 1) + [choices]
        self.gate = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.macs = hidden * (k * (2 if gated else 1) + m)
        self.weight = None  # The site's, known when all sites are.
        self.price, self.log = 0.0, None

    def widths(self, x):
        """Every h_k, k in 0..=learners: [learners + 1, tokens, m]."""
        up = F.linear(x, self.w1, self.b1)
        act = ACTIVATIONS[self.activation]
        if self.w1_gate is None:
            hidden = act(up)
        else:
            hidden = act(F.linear(x, self.w1_gate, self.b1_gate)) * up
        blocks = hidden.view(-1, self.learners, self.block).transpose(0, 1)
        parts = torch.bmm(blocks, self.w2.view(self.learners, self.block, -1))
        sums = torch.cat([torch.zeros_like(parts[:1]), parts]).cumsum(0)
        if self.b2 is None:
            return sums
        # The released code adds up the biases as it adds up the learners.
        bias = self.b2.cumsum(0) if self.out_bias == "summed" else self.b2
        return sums + bias[:, None]

    def forward(self, x):
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        gains = x
        for linear in self.gate:
            gains = linear(gains)
        if self.transform == "neg_exp2":
            gains = -torch.exp(2 * gains)
        costs = np.arange(self.first, self.learners + 1) / self.learners
        charge = (np.float64(np.float32(self.price)) * self.weight * costs).astype(np.float32)
        scores = gains - torch.tensor(charge)
        choice = scores.argmax(-1) + self.first
        two = scores.topk(2, -1).values
        self.log.append((self.name, choice.numpy().copy(), (two[:, 0] - two[:, 1]).numpy().copy()))
        y = self.widths(x)[choice, torch.arange(len(x))]
        return y.view(*shape[:-1], -1)


def randomise(model, seed, spread):
    """Weights far from their usual start, rounded to f16; gates whose gains differ by about
    `spread`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "gate." in name and name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif "gate." in name:
                p.copy_(spread * noise / p.shape[1] ** 0.5)
            elif name.endswith((".b1", ".b1_gate", ".b2")) or p.dim() == 1 and "bias" in name:
                p.copy_(0.3 * noise)
            elif p.dim() == 1:
                p.copy_(1.0 + 0.2 * noise)  # norms
            elif "embed" in name or "token" in name:
                p.copy_(0.5 * noise)
            elif name.endswith(".w2"):
                p.copy_(1.5 * noise / p.shape[0] ** 0.5)
            else:
                p.copy_(1.5 * noise / p[0].numel() ** 0.5)
            p.copy_(p.half().float())


def measure(name, model, run, prices, inputs):
    """Runs at each price and writes expected.npz; the prices must spread the choices."""
    acms = [m for m in model.modules() if isinstance(m, Acm)]
    mean = np.mean([m.macs for m in acms])
    saved, fractions, varied = dict(inputs, prices=np.array(prices, np.float32)), [], 0
    for i, price in enumerate(prices):
        log = []
        for m in acms:
            m.weight, m.price, m.log = m.macs / mean, price, log
        with torch.no_grad():
            saved[f"outputs_{i}"] = run().numpy()
        saved[f"choices_{i}"] = np.stack([c for _, c, _ in log]).astype(np.int64)
        saved[f"margins_{i}"] = np.stack([m for _, _, m in log])
        by_name = {m.name: m for m in acms}
        sites = [by_name[n] for n, _, _ in log]
        spent = [m.macs * c.mean() / m.learners for m, (_, c, _) in zip(sites, log)]
        fractions.append(sum(spent) / sum(m.macs for m in sites))
        varied = max(varied, np.mean([len(set(c)) > 1 for _, c, _ in log]))
    steps = -np.diff(fractions)
    assert (steps > 0.08).all(), f"{name}: the prices do not spread the choices: {fractions}"
    assert varied > 0.7, f"{name}: too many sites choose alike for every token"
    np.savez_compressed(OUT / name / "expected.npz", **saved)
    close = np.concatenate([saved[f"margins_{i}"].ravel() for i in range(len(prices))])
    print(f"{name}: {len(sites)} sites, fractions {np.round(fractions, 3)}, "
          f"{(close < 1e-3).sum()} of {close.size} choices within 1e-3")


def fresh(name, config):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def store(folder, tensors):
    tensors = {name: t.detach().half().contiguous() for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def own_layout(acm):
    """The tensors of a module in Limbeck's layout."""
    at = f"{acm.name}.acm."
    found = {at + n: getattr(acm, n) for n in ["w1", "w1_gate", "b1", "b1_gate", "w2"]}
    if acm.b2 is not None:
        found[at + ("b2" if acm.out_bias == "one" else "bk")] = (
            acm.b2[0] if acm.out_bias == "one" else acm.b2
        )
    deep = len(acm.gate) > 1
    for i, linear in enumerate(acm.gate):
        place = f"{at}gate.{i}" if deep else f"{at}gate"
        found[f"{place}.weight"], found[f"{place}.bias"] = linear.weight, linear.bias
    return {name: t for name, t in found.items() if t is not None}


def with_modules(model, skip):
    """The state dict without the tensors of modules, and those in Limbeck's layout."""
    acms = {n: m for n, m in model.named_modules() if isinstance(m, Acm)}
    inside = tuple(f"{n}." for n in acms)
    tensors = {
        n: t
        for n, t in model.state_dict().items()
        if not n.startswith(inside) and not n.endswith(skip)
    }
    for acm in acms.values():
        tensors.update(own_layout(acm))
    return tensors


def hf_config(config, **more):
    return {**json.loads(config.to_json_string(use_diff=False)), **more}


SMALL = dict(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)


def decoder(name, model, config, place, acm, seed, spread, prices):
    model = model(config).eval()
    for layer, modules in place.items():
        block = model.model.layers[layer]
        at = f"model.layers.{layer}"
        if "mlp" in modules:
            block.mlp = Acm(f"{at}.mlp", 64, 64, 3, "silu", **modules["mlp"])
        widths = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
        for part, (k, m) in widths.items():
            if part in modules:
                replaced = Acm(f"{at}.self_attn.{part}", k, m, 2, **modules[part])
                setattr(block.self_attn, part, replaced)
    randomise(model, seed, spread)
    folder = fresh(name, {k: v for k, v in hf_config(config, acm=acm).items() if v is not None})
    store(folder, with_modules(model, "rotary_emb.inv_freq"))
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, 48)
    tokens = torch.tensor(ids)[None]
    run = lambda: model(tokens, use_cache=False).logits[0]
    measure(name, model, run, prices, {"input_ids": ids.astype(np.int64)})


def bert(name, seed, spread, prices):
    config = BertConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=40,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        pad_token_id=0,
    )
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    for i, layer in enumerate(model.encoder.layer):
        at = f"encoder.layer.{i}"
        # What goes through the intermediate goes to the module as it is.
        layer.intermediate = nn.Identity()
        layer.output.dense = Acm(
            f"{at}.mlp", 64, 64, 3, "gelu", out_bias="each", depth=1 + 2 * i, transform="neg_exp2"
        )
        own = layer.attention.self
        own.value = Acm(f"{at}.attention.self.value", 64, 64, 2, "gelu", first=1, out_bias="one")
        if i == 1:
            own.query = Acm(f"{at}.attention.self.query", 64, 64, 2, "identity", first=1)
            layer.attention.output.dense = Acm(
                f"{at}.attention.output.dense", 64, 64, 2, "identity", first=0, out_bias="each"
            )
    randomise(model, seed, spread)
    acm = {
        "mlp": {"gate_transform": "neg_exp2", "learners": 3},
        "v_proj": {"activation": "gelu"},
        "o_proj": {"min_choice": 0},
    }
    folder = fresh(name, {k: v for k, v in hf_config(config, acm=acm).items() if v is not None})
    store(folder, with_modules(model, "position_ids"))
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (2, 16))
    run = lambda: model(torch.tensor(ids)).last_hidden_state.reshape(-1, 64)
    measure(name, model, run, prices, {"input_ids": ids.astype(np.int64)})


class Vit(nn.Module):
    """The released vision transformer, with modules or linears as `make` says."""

    def __init__(self, d, heads, layers, classes, image, patch, make):
        super().__init__()
        self.heads, self.d = heads, d
        self.conv_proj = nn.Conv2d(3, d, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, d))
        self.pos_token = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, d))
        norm = lambda: nn.LayerNorm(d, eps=1e-6)
        self.ln_1 = nn.ModuleList(norm() for _ in range(layers))
        self.ln_2 = nn.ModuleList(norm() for _ in range(layers))
        at = "encoder.layers.encoder_layer_{}."
        parts = ["q_proj", "k_proj", "v_proj", "o_proj"]
        self.parts = nn.ModuleList(
            nn.ModuleDict({
                **{p: make(p, at.format(i) + f"self_attention.{p}") for p in parts},
                "mlp": make("mlp", at.format(i) + "mlp"),
            })
            for i in range(layers)
        )
        self.ln = norm()
        self.head = nn.Linear(d, classes)

    def forward(self, pixels):
        x = self.conv_proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.pos_token
        split = lambda y: y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)
        for ln_1, ln_2, part in zip(self.ln_1, self.ln_2, self.parts):
            y = ln_1(x)
            q, k, v = (split(part[p](y)) for p in ["q_proj", "k_proj", "v_proj"])
            attended = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + part["o_proj"](attended.transpose(1, 2).reshape(x.shape))
            x = x + part["mlp"](ln_2(x))
        return self.head(self.ln(x)[:, 0])

    def tensors(self):
        found = {
            "class_token": self.class_token,
            "encoder.pos_embedding": self.pos_token,
        }

        def add(name, module):
            found[f"{name}.weight"], found[f"{name}.bias"] = module.weight, module.bias

        add("conv_proj", self.conv_proj)
        add("encoder.ln", self.ln)
        add("heads.head", self.head)
        for i, part in enumerate(self.parts):
            at = f"encoder.layers.encoder_layer_{i}."
            add(at + "ln_1", self.ln_1[i])
            add(at + "ln_2", self.ln_2[i])
            for name, module in part.items():
                place = at + ("mlp" if name == "mlp" else f"self_attention.{name}")
                if isinstance(module, nn.Linear):
                    add(place, module)
                elif isinstance(module, nn.Sequential):
                    add(f"{place}.0", module[0])
                    add(f"{place}.3", module[2])
                else:
                    found[f"{place}.w1"], found[f"{place}.w2"] = module.w1.T, module.w2
                    if module.b1 is not None:
                        found[f"{place}.b1"] = module.b1
                    if module.b2 is not None:
                        found[f"{place}.b2"] = module.b2.flatten()
                    for j, linear in enumerate(module.gate):
                        deep = len(module.gate) > 1
                        add(f"{place}.gating_network." + (f"net.{j}" if deep else "fc"), linear)
        return found


def vit(name, seed, spread, prices, replaced, acm, depth, out_bias):
    d, image, patch, mlp_dim, layers, classes = 64, 24, 8, 32, 2, 10

    def make(part, place):
        if part in replaced:
            act = acm["activation"] if part == "mlp" else acm["attention_activation"]
            first = 0 if part == "mlp" else 1
            return Acm(place, d, d, 2, act, first=first, depth=depth, out_bias=out_bias)
        if part == "mlp":
            return nn.Sequential(nn.Linear(d, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, d))
        return nn.Linear(d, d)

    model = Vit(d, 4, layers, classes, image, patch, make).eval()
    randomise(model, seed, spread)
    config = dict(
        model_type="acm_vit",
        image_size=image,
        patch_size=patch,
        hidden_dim=d,
        mlp_dim=mlp_dim,
        num_layers=layers,
        num_heads=4,
        num_classes=classes,
        acm=dict(
            acm,
            ffn="mlp" in replaced,
            num_blocks=2,
            block_flops_factor=1.0,
            **{p: p in replaced for p in ["q_proj", "k_proj", "v_proj", "o_proj"]},
        ),
    )
    store(fresh(name, config), model.tensors())
    pixels = torch.randn(3, 3, image, image, generator=torch.Generator().manual_seed(seed))
    run = lambda: model(pixels)
    measure(name, model, run, prices, {"pixel_values": pixels.numpy()})


def vit_dense(name, seed):
    d, image, patch, mlp_dim, classes = 64, 24, 8, 96, 10

    def make(part, place):
        if part == "mlp":
            return nn.Sequential(nn.Linear(d, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, d))
        return nn.Linear(d, d)

    model = Vit(d, 4, 1, classes, image, patch, make).eval()
    randomise(model, seed, 0.0)
    tensors = model.tensors()
    at = "encoder.layers.encoder_layer_0.self_attention."
    for kind in ["weight", "bias"]:
        parts = [tensors.pop(f"{at}{p}_proj.{kind}") for p in "qkv"]
        tensors[f"{at}in_proj_{kind}"] = torch.cat(parts)
        tensors[f"{at}out_proj.{kind}"] = tensors.pop(f"{at}o_proj.{kind}")
    config = dict(
        model_type="acm_vit",
        image_size=image,
        patch_size=patch,
        hidden_dim=d,
        mlp_dim=mlp_dim,
        num_layers=1,
        num_heads=4,
        num_classes=classes,
    )
    store(fresh(name, config), tensors)
    pixels = torch.randn(2, 3, image, image, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(pixels).numpy()
    np.savez_compressed(
        OUT / name / "expected.npz", pixel_values=pixels.numpy(), logits=logits
    )


def main():
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    eager = dict(attn_implementation="eager")
    proj = dict(activation="identity", first=1)
    decoder(
        "decoder",
        Qwen2ForCausalLM,
        Qwen2Config(**SMALL, **eager, rms_norm_eps=1e-6, tie_word_embeddings=True,
                    rope_parameters=rope),
        {
            0: {
                "mlp": dict(gated=True, hidden_bias=False),
                "q_proj": dict(proj, hidden_bias=False, out_bias="one"),
                "k_proj": dict(proj, out_bias="each"),
                "v_proj": proj,
                "o_proj": dict(proj, hidden_bias=False),
            },
            2: {
                "mlp": dict(gated=True, hidden_bias=True, out_bias="each"),
                "k_proj": dict(proj, block=96),
            },
        },
        {"mlp": {"learners": 3}, "q_proj": {"min_choice": 1}},
        seed=1,
        spread=1.0,
        prices=[0.0, 0.8, 2.5],
    )
    decoder(
        "decoder_affine",
        LlamaForCausalLM,
        LlamaConfig(**SMALL, **eager, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters=rope),
        {
            1: {
                "mlp": dict(depth=1, transform="neg_exp2", out_bias="one"),
                "v_proj": dict(activation="gelu", first=1, depth=1),
            },
            2: {"mlp": dict(depth=1, transform="neg_exp2", gated=True)},
        },
        {"mlp": {"gate_transform": "neg_exp2"}, "v_proj": {"activation": "gelu"}},
        seed=2,
        spread=0.6,
        prices=[0.0, 0.5, 1.5],
    )
    bert("bert", seed=3, spread=0.6, prices=[0.0, 0.4, 1.2])
    everything = ["mlp", "q_proj", "k_proj", "v_proj", "o_proj"]
    vit(
        "vit",
        seed=4,
        spread=1.0,
        prices=[0.0, 1.6, 5.0],
        replaced=everything,
        acm=dict(
            activation="gelu",
            attention_activation="identity",
            bias="hidden_only",
            attention_bias="hidden_only",
            min_choice={"self_attention": 1},
            depth=3,
            gating_hidden_dim=16,
        ),
        depth=3,
        out_bias="none",
    )
    vit(
        "vit_gelu",
        seed=5,
        spread=1.0,
        prices=[0.0, 1.6, 5.0],
        replaced=["mlp", "q_proj", "v_proj"],
        acm=dict(
            activation="gelu",
            attention_activation="gelu",
            bias=True,
            attention_bias=True,
            gate=dict(min_choice=1, depth=1, gs_tau=0.8, gs_hard=True),
            dropout=0.0,
            attention_dropout=0.0,
        ),
        depth=1,
        out_bias="summed",
    )
    vit_dense("vit_dense", seed=6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
