"""Trains the teacher: python teacher.py FOLDER. A flow from noise (time 1000) to images (time 0).

At s = time / 1000 the sample is `(1 - s) image + s noise`, and the network predicts `noise - image`. One image
in ten comes without its class, so that predictions can be guided.
"""

import torch
from torch.nn import functional as F

import data
from networks import NO_CLASS, Average, UNet
from run import Clock, arguments, rate_at

BATCH = 128
DECAY = 0.998


def main():
    args = arguments(__doc__, steps=6000, rate=1.5e-3)
    images, labels = data.load("train")
    generator = torch.Generator().manual_seed(args.seed)
    network = UNet(NO_CLASS + 1).to(memory_format=torch.channels_last)
    average = Average(network, UNet(NO_CLASS + 1), DECAY)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    path, first = args.folder / "teacher.pt", 0
    if args.resume:
        saved = torch.load(path)
        network.load_state_dict(saved["network"])
        average.copy.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        average.steps = first = saved["steps"]
        generator.manual_seed(args.seed + first)
    clock = Clock(args.minutes)
    for step, (x, y) in enumerate(data.batches(images, labels, BATCH, args.steps - first, generator), first):
        optimiser.param_groups[0]["lr"] = rate_at(step, args.steps, args.rate)
        y = torch.where(torch.rand(BATCH, generator=generator) < 0.1, NO_CLASS, y)
        # Times near the middle are the hardest.
        s = torch.randn(BATCH, generator=generator).sigmoid()
        noise = torch.randn(x.shape, generator=generator)
        weight = s[:, None, None, None]
        out = network((1 - weight) * x + weight * noise, 1000 * s, y)
        loss = F.mse_loss(out, noise - x)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update()
        if clock.tick(step, loss) or clock.over() or step + 1 == args.steps:
            saved = {"network": network.state_dict(), "average": average.copy.state_dict()}
            torch.save(saved | {"optimiser": optimiser.state_dict(), "steps": step + 1}, path)
        if clock.over():
            break


if __name__ == "__main__":
    main()
