"""Sharpens the student: python sharpen.py FOLDER, after student.py.

Distribution matching (DMD): a third network learns the velocities of what the student sees in noise of its four
levels, and the student moves its images from where that network sees them to where the teacher does.
"""

import torch
from torch.nn import functional as F

import data
from networks import Average
from run import arguments, start
from sampling import LEVELS
from student import BATCH, beginning, load_student, load_teacher, wide

DECAY = 0.99
# Levels at which images are compared.
LEAST, MOST = 0.1, 0.95


def noisy(images, generator):
    """Images with noise of random levels; the levels and the noise."""
    level = LEAST + (MOST - LEAST) * torch.rand(len(images), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return wide(1 - level) * images + wide(level) * noise, level, noise


def matching(teacher, other, images, y, generator):
    """A loss whose gradient moves images from where `other` sees them to where the teacher does."""
    with torch.no_grad():
        x, level, _ = noisy(images, generator)
        real = x - wide(level) * teacher(x, 1000 * level, y)
        fake = x - wide(level) * other(x, 1000 * level, y)
        scale = (images - real).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
        goal = images - (fake - real) / scale
    return 0.5 * F.mse_loss(images, goal)


def main(args, group):
    images, labels = data.load("train")
    teacher = load_teacher(args.folder)
    network = load_student(args.folder).train().requires_grad_(True)
    average = Average(network, load_student(args.folder), DECAY)
    other = beginning(teacher).requires_grad_(True)
    rates = {"weight_decay": 0.0, "betas": (0.5, 0.99)}
    optimiser = torch.optim.AdamW(network.parameters(), **rates)
    follower = torch.optim.AdamW(other.parameters(), **rates)
    levels = torch.tensor(LEVELS)
    count, generator = group.part(BATCH), group.generator
    for step, (x0, y) in enumerate(data.batches(images, labels, count, args.steps, generator)):
        at = torch.randint(1, len(LEVELS), (count,), generator=generator)
        at[: count // 2] = 0
        high = levels[at]
        x = wide(1 - high) * x0 + wide(high) * torch.randn(x0.shape, generator=generator)
        found = x - wide(high) * network(x, 1000 * high, y)
        made = found.detach()
        loss = matching(teacher, other, found, y, generator)
        over = group.step(network, optimiser, loss, step)
        average.update()
        x, level, noise = noisy(made, generator)
        group.step(other, follower, F.mse_loss(other(x, 1000 * level, y), noise - made), step)
        if group.due(step, over):
            torch.save({"average": average.copy.state_dict(), "steps": step + 1}, args.folder / "student.pt")
        if over:
            break


if __name__ == "__main__":
    start(main, arguments(__doc__, steps=2000, rate=2e-4).parse_args())
