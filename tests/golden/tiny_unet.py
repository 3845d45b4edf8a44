"""Tiny seeded UNets with what diffusers' UNet2DModel gives for them.

Each case becomes a folder unet/NAME with a checkpoint and expected.npz: sample [2, channels, height, width],
timestep [2], class_labels [2] i64 where there are classes, out_sample as sample; f32.

- plain: blocks without attention, classes, an image of two sides;
- attention: attention everywhere as one head, three levels of two residual blocks, sines before cosines,
  GELU, padding at the far end alone; no classes;
- patches: a pixel of the network is 2 x 2 of the sample, as in models/recipes/fashion_mnist.

    python tests/golden/tiny_unet.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

OUT = Path(__file__).parent / "unet"


def randomise(model, seed):
    """Weights that all move the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                tensor.copy_(1.0 + 0.2 * noise)
            else:
                tensor.copy_(0.3 * noise)


def make(name, seed, patch=1, **settings):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = UNet2DModel(**settings).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    if patch > 1:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": patch}, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed + 100)
    size = model.config.sample_size
    sides = [patch * side for side in (size if isinstance(size, tuple) else (size, size))]
    sample = torch.randn((2, settings["in_channels"] // patch**2, *sides), generator=generator)
    given = {"sample": sample, "timestep": torch.tensor([999.0, 31.25])}
    classes = settings.get("num_class_embeds")
    if classes:
        given["class_labels"] = torch.tensor([classes - 1, 1])
    with torch.no_grad():
        inner = given | {"sample": F.pixel_unshuffle(sample, patch)}
        out = F.pixel_shuffle(model(**inner).sample, patch)
    assert out.std() > 0.05, name
    given["out_sample"] = out
    np.savez(folder / "expected.npz", **{key: value.numpy() for key, value in given.items()})
    print(name, sum(p.numel() for p in model.parameters()), out.std().item())


def main():
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    small = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
    make("plain", 1, sample_size=(12, 8), in_channels=3, out_channels=3, num_class_embeds=5, **plain, **small)
    make(
        "attention",
        2,
        sample_size=8,
        in_channels=2,
        out_channels=2,
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 12, 8),
        layers_per_block=2,
        norm_num_groups=2,
        norm_eps=1e-4,
        attention_head_dim=None,
        flip_sin_to_cos=False,
        freq_shift=1,
        act_fn="gelu",
        downsample_padding=0,
    )
    make("patches", 3, patch=2, sample_size=6, in_channels=4, out_channels=4, num_class_embeds=4, **plain, **small)


if __name__ == "__main__":
    main()
