"""The networks: a UNet that predicts a flow's velocity, and a classifier that judges its images."""

import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn import functional as F

from data import BORDER, CLASSES, SIDE

PATCH = 4
# The class of the teacher's predictions without a class.
NO_CLASS = CLASSES


class UNet(nn.Module):
    """diffusers' UNet2DModel over patches of 4 x 4 pixels: sample [n, 1, 32, 32], time in 0..1000 -> velocity."""

    def __init__(self, classes):
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=(SIDE + 2 * BORDER) // PATCH,
            in_channels=PATCH**2,
            out_channels=PATCH**2,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=32,
            num_class_embeds=classes,
        )

    def forward(self, sample, timestep, class_labels):
        x = F.pixel_unshuffle(sample, PATCH).contiguous(memory_format=torch.channels_last)
        x = self.unet(x, timestep, class_labels, return_dict=False)[0]
        return F.pixel_shuffle(x, PATCH)


class Classifier(nn.Module):
    """Images [n, 1, 32, 32] in -1..1 -> logits [n, 10]; `features` [n, 64] are what its last layer reads."""

    def __init__(self):
        super().__init__()

        def conv(inputs, outputs, stride):
            layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

        self.body = nn.Sequential(
            *conv(1, 16, 2), *conv(16, 32, 1), *conv(32, 64, 2), *conv(64, 64, 1)
        )
        self.head = nn.Linear(64, CLASSES)

    def features(self, images):
        return self.body(images).mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


class Average:
    """The running mean of a module's weights over its last steps."""

    def __init__(self, module, copy, decay):
        self.module, self.copy, self.decay, self.steps = module, copy, decay, 0
        copy.load_state_dict(module.state_dict())
        copy.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for kept, new in zip(self.copy.parameters(), self.module.parameters()):
            kept.lerp_(new, 1 - decay)
