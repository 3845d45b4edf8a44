"""Fits the levels of sparsity in this folder: python fit.py GGUF TEXT OUT.json (about 15 minutes).

A linear leaves out the input channel j where |x[j]| c[j] < t. The weights c are how much the student's
loss feels a channel: the root of its mean squared gradient, for tokens drawn from the student's own
predictions (the diagonal of the Fisher information), scaled so that its logarithm has the mean of the
columns' norms. The thresholds t, one for a linear, are learned: the divergence of the predictions from
the dense student's (Kullback-Leibler) is minimised at a price on multiply-adds, which moves until SHARE
of them are left out. A step function has no gradient; that of a sigmoid of the same place stands in
(straight-through). One factor for all thresholds then makes the levels.

Needs the packages of tests/golden/requirements.txt and accelerate.
"""

import json
import math
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 512
FISHER_WINDOWS = 12
SHARE, STEPS, RATE, WIDTH = 0.345, 70, 0.04, 0.25
LEVELS, LEVEL_STEP, LEVEL_WINDOWS = 15, 0.04, 12

torch.manual_seed(0)
random.seed(0)
torch.set_grad_enabled(False)


class Student:
    """The dense student, and what each of its sparse linears leaves out."""

    def __init__(self, gguf: Path):
        args = {"gguf_file": gguf.name}
        self.tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **args)
        self.model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **args)
        self.model.eval().requires_grad_(False)
        self.names, self.macs, self.norms = [], [], []
        # What becomes of a linear's input; None leaves it alone.
        self.change = None
        for number, layer in enumerate(self.model.model.layers):
            attention, mlp, prefix = layer.self_attn, layer.mlp, f"model.layers.{number}"
            self.add(f"{prefix}.self_attn.attention.qkv", attention.q_proj, attention.k_proj, attention.v_proj)
            self.add(f"{prefix}.attention_residual", attention.o_proj)
            self.add(f"{prefix}.mlp.gate", mlp.gate_proj, mlp.up_proj)
            self.add(f"{prefix}.mlp_residual", mlp.down_proj)

    def add(self, name, *linears):
        """Linears that share their input."""
        index = len(self.names)
        weight = torch.cat([linear.weight for linear in linears])
        self.names.append(name)
        self.macs.append(weight.numel())
        self.norms.append(weight.norm(dim=0))
        shared = {}

        def change(linear, args):
            if self.change is None:
                return None
            if linear is linears[0]:
                shared["x"] = self.change(index, args[0])
            return (shared["x"],)

        for linear in linears:
            linear.register_forward_pre_hook(change)

    def windows(self, text: str):
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)])

    def predictions(self, window, change=None):
        """Log-probabilities after each token of a window, its inputs changed."""
        self.change = change
        try:
            return torch.log_softmax(self.model(window[None]).logits[0], -1)
        finally:
            self.change = None


def divergence(dense, found):
    return (dense.exp() * (dense - found)).sum() / len(dense)


def channel_weights(student, windows):
    """By linear, and some inputs of each."""
    squares = [0.0] * len(student.names)
    inputs = [[] for _ in student.names]
    for window in windows:
        seen = {}

        def keep(index, x):
            if not x.requires_grad:
                x = x.detach().requires_grad_(True)
            if not x.is_leaf:
                x.retain_grad()
            seen[index] = x
            return x

        with torch.enable_grad():
            log = student.predictions(window, keep)
            drawn = torch.distributions.Categorical(logits=log.detach()).sample()
            log.gather(1, drawn[:, None]).sum().backward()
        for index, x in seen.items():
            squares[index] += (x.grad[0] ** 2).sum(0)
            inputs[index].append(x.detach()[0, ::4])
    roots = [s.sqrt() for s in squares]
    weights = [r * (n.log().mean() - r.log().mean()).exp() for r, n in zip(roots, student.norms)]
    return [rounded(w) for w in weights], [torch.cat(x) for x in inputs]


def rounded(values):
    """To three digits, as they are stored."""
    return torch.tensor([float(f"{v:.3g}") for v in values.tolist()])


def learned_thresholds(student, windows, weights, start):
    logs = start.log().requires_grad_(True)
    total = sum(student.macs)
    optimizer = torch.optim.Adam([logs], lr=RATE, betas=(0.9, 0.97))
    price, order = 0.5, []
    for step in range(STEPS):
        order = order or random.sample(range(len(windows)), len(windows))
        window = windows[order.pop()]
        dense = student.predictions(window)
        left_out = 0.0

        def soft(index, x):
            nonlocal left_out
            above = ((x.abs() + 1e-12) * weights[index]).log() - logs[index]
            smooth = torch.sigmoid(above / WIDTH)
            kept = (above >= 0).float() + smooth - smooth.detach()
            left_out = left_out + student.macs[index] / total * (1 - kept).mean()
            return x * kept

        with torch.enable_grad():
            loss = divergence(dense, student.predictions(window, soft))
            (loss - price * left_out).backward()
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (STEPS - step) / (0.4 * STEPS))
        optimizer.step()
        optimizer.zero_grad()
        price *= math.exp(2 * (SHARE - left_out.item()))
        print(f"step {step}: {left_out.item():.3f} left out, {loss.item():.4f} nats", flush=True)
    return logs.detach().exp()


def scale_for(student, inputs, weights, thresholds, share):
    """The factor for all thresholds at which that share is left out."""
    total = sum(student.macs)
    low, high = 1e-6, 1e3
    for _ in range(40):
        scale = math.sqrt(low * high)
        out = sum(
            macs / total * ((x.abs() * w) < t * scale).float().mean().item()
            for macs, x, w, t in zip(student.macs, inputs, weights, thresholds)
        )
        low, high = (scale, high) if out < share else (low, scale)
    return low


def level(student, windows, weights, thresholds):
    """What thresholds cost and lose on some windows."""
    kept, loss, total = 0.0, 0.0, sum(student.macs)

    def hard(index, x):
        nonlocal kept
        keep = x.abs() * weights[index] >= thresholds[index]
        kept += student.macs[index] / total * keep.float().mean().item()
        return x * keep

    for window in windows:
        loss += divergence(student.predictions(window), student.predictions(window, hard)).item()
    return {
        "cost": round(kept / len(windows), 6),
        "loss": round(loss / len(windows), 6),
        "thresholds": [float(f"{t:.6g}") for t in thresholds.tolist()],
    }


def main(gguf, text, output):
    student = Student(Path(gguf))
    windows = student.windows(Path(text).read_text())
    some = windows[:: len(windows) // FISHER_WINDOWS][:FISHER_WINDOWS]
    weights, inputs = channel_weights(student, some)
    start = torch.tensor([(x.abs() * w).flatten()[::97].quantile(SHARE) for x, w in zip(inputs, weights)])
    thresholds = learned_thresholds(student, windows, weights, start)
    measured = windows[:: len(windows) // LEVEL_WINDOWS][:LEVEL_WINDOWS]
    levels = []
    for number in range(LEVELS, 0, -1):
        scale = scale_for(student, inputs, weights, thresholds, LEVEL_STEP * number)
        levels.append(level(student, measured, weights, thresholds * scale))
        print(f"level {levels[-1]['cost']:.3f}: {levels[-1]['loss']:.4f} nats", flush=True)
    channels = [[float(f"{v:.3g}") for v in w.tolist()] for w in weights]
    stored = {"linears": student.names, "channels": channels, "levels": levels}
    Path(output).write_text(json.dumps(stored, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
