"""Fashion-MNIST as Debian's package dataset-fashion-mnist installs it."""

import gzip
from pathlib import Path

import numpy as np
import torch

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
SIDE = 28
# Black pixels around an image make it 32 x 32.
BORDER = 2


def load(part):
    """Images [n, 1, 32, 32] in -1..1 and their classes [n]; `part` is "train" or "t10k"."""
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, SIDE, SIDE)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    pixels = np.pad(pixels, [(0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER)])
    return torch.from_numpy(pixels / np.float32(127.5) - 1), torch.from_numpy(labels.astype(np.int64))


def batches(images, labels, size, steps, generator):
    """Random batches, mirrored half of the time where the class allows it."""
    for _ in range(steps):
        at = torch.randint(len(images), (size,), generator=generator)
        x, y = images[at], labels[at]
        # Shoes (5, 7, 9) all point to the left.
        mirrored = (torch.rand(size, generator=generator) < 0.5) & ~torch.isin(y, torch.tensor([5, 7, 9]))
        yield torch.where(mirrored[:, None, None, None], x.flip(-1), x), y
