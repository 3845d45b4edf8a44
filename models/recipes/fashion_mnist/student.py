"""Distils the teacher into a student of 4, 2 or 1 steps: python student.py FOLDER.

Consistency distillation over four noise levels. From an image with noise of one level the teacher goes to the
next level in a few small steps, and what the student's running mean sees in that is what the student learns
to see at once. A student's sampler goes to the image it sees and adds fresh noise of the next level.
"""

import torch

import data
from networks import NO_CLASS, Average, UNet
from run import Clock, arguments, rate_at
from sampling import LEVELS, TEACHER_STEPS, guided

BATCH = 128
DECAY = 0.99
# How often a batch has each level: one step alone makes the image at the first.
SHARES = torch.tensor([0.4, 0.2, 0.2, 0.2])
# Where the loss turns from squares to magnitudes, for each pixel.
SMOOTH = 0.03


def load_teacher(folder):
    network = UNet(NO_CLASS + 1).to(memory_format=torch.channels_last)
    network.load_state_dict(torch.load(folder / "teacher.pt")["average"])
    return network.eval().requires_grad_(False)


def beginning(teacher):
    """A student with the teacher's weights, without the class for no class."""
    network = UNet(NO_CLASS).to(memory_format=torch.channels_last)
    weights = teacher.state_dict()
    classes = "unet.class_embedding.weight"
    weights[classes] = weights[classes][:NO_CLASS]
    network.load_state_dict(weights)
    return network


def main():
    args = arguments(__doc__, steps=3000, rate=4e-4, guidance=True)
    images, labels = data.load("train")
    generator = torch.Generator().manual_seed(args.seed)
    teacher = load_teacher(args.folder)
    network = beginning(teacher)
    average = Average(network, beginning(teacher), DECAY)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0, betas=(0.9, 0.99))
    levels = torch.tensor(LEVELS + [0.0])
    small = TEACHER_STEPS // len(LEVELS)
    clock = Clock(args.minutes)
    for step, (x0, y) in enumerate(data.batches(images, labels, BATCH, args.steps, generator)):
        optimiser.param_groups[0]["lr"] = rate_at(step, args.steps, args.rate)
        at = torch.multinomial(SHARES, BATCH, replacement=True, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        wide = lambda v: v[:, None, None, None]
        high, low = levels[at], levels[at + 1]
        x = wide(1 - high) * x0 + wide(high) * noise
        with torch.no_grad():
            target = x
            for part in range(small):
                now = high + (low - high) * part / small
                velocity = guided(teacher, target, now, y, args.guidance)
                target = target + wide((low - high) / small) * velocity
            seen = target - wide(low) * average.copy(target, 1000 * low, y)
            target = seen.where(wide(low) > 0, target)
        out = network(x, 1000 * high, y)
        error = (x - wide(high) * out - target).square().mean((1, 2, 3))
        loss = ((error + SMOOTH**2).sqrt() - SMOOTH).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update()
        if clock.tick(step, loss) or clock.over() or step + 1 == args.steps:
            saved = {"average": average.copy.state_dict(), "steps": step + 1, "guidance": args.guidance}
            torch.save(saved, args.folder / "student.pt")
        if clock.over():
            break


if __name__ == "__main__":
    main()
