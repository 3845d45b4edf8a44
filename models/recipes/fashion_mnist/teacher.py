"""Trains the teacher: python teacher.py FOLDER. A flow from noise (time 1000) to images (time 0).

At s = time / 1000 the sample is `(1 - s) image + s noise`, and the network predicts `noise - image`. One image
in ten comes without its class, so that predictions can be guided.
"""

import torch
from torch.nn import functional as F

import data
from networks import NO_CLASS, Average, UNet
from run import arguments, start

BATCH = 128
DECAY = 0.998


def main(args, group):
    images, labels = data.load("train")
    network = UNet(NO_CLASS + 1).to(memory_format=torch.channels_last)
    average = Average(network, UNet(NO_CLASS + 1), DECAY)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    count, generator = group.part(BATCH), group.generator
    for step, (x, y) in enumerate(data.batches(images, labels, count, args.steps, generator)):
        y = torch.where(torch.rand(count, generator=generator) < 0.1, NO_CLASS, y)
        # Times near the middle are the hardest.
        s = torch.randn(count, generator=generator).sigmoid()
        noise = torch.randn(x.shape, generator=generator)
        weight = s[:, None, None, None]
        out = network((1 - weight) * x + weight * noise, 1000 * s, y)
        over = group.step(network, optimiser, F.mse_loss(out, noise - x), step)
        average.update()
        if group.due(step, over):
            torch.save({"average": average.copy.state_dict(), "steps": step + 1}, args.folder / "teacher.pt")
        if over:
            break


if __name__ == "__main__":
    start(main, arguments(__doc__, steps=6000, rate=1.5e-3).parse_args())
