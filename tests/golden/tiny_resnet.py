"""Tiny seeded residual networks with the logits that transformers gives for them.

Each case becomes a folder resnet/NAME with a checkpoint, a preprocessor_config.json that says the size
of images, and expected.npz: pixel_values [3, channels, height, width] f32, logits [3, classes] f32.

- basic, bottleneck: the two kinds of block;
- odd: an image of odd sides that are not the same, one channel, GELU, a first stage that moves by 2,
  and a bottleneck whose first convolution does.

Batch norms have statistics far from their usual start. Computed in f32.

    python tests/golden/tiny_resnet.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import ResNetConfig, ResNetForImageClassification

OUT = Path(__file__).parent / "resnet"


def randomise(model, seed):
    """Weights and statistics that all move the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.3 + noise.abs())
            elif name.endswith("normalization.weight"):
                tensor.copy_(1.0 + 0.2 * noise)
            elif tensor.dim() == 1:
                tensor.copy_(0.3 * noise)  # biases, means
            else:
                tensor.copy_(1.5 * noise / tensor[0].numel() ** 0.5)


def make(name, seed, size, **settings):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = ResNetConfig(num_labels=7, **settings)
    model = ResNetForImageClassification(config).eval()
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    pixels = torch.randn((3, config.num_channels, *size), generator=generator)
    with torch.no_grad():
        logits = model(pixels).logits
    assert logits.std() > 0.05, name
    model.save_pretrained(folder)
    height, width = size
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True}
    processor["size"] = {"height": height, "width": width}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    np.savez(folder / "expected.npz", pixel_values=pixels.numpy(), logits=logits.numpy())
    print(name, logits.std().item())


def main():
    make(
        "basic", 1, (32, 32), layer_type="basic", embedding_size=16, hidden_sizes=[16, 32], depths=[2, 1]
    )
    make(
        "bottleneck",
        2,
        (40, 32),
        layer_type="bottleneck",
        embedding_size=16,
        hidden_sizes=[32, 128],
        depths=[1, 2],
    )
    make(
        "odd",
        3,
        (27, 35),
        layer_type="bottleneck",
        hidden_act="gelu",
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[24, 40],
        depths=[2, 1],
        downsample_in_first_stage=True,
        downsample_in_bottleneck=True,
    )


if __name__ == "__main__":
    main()
