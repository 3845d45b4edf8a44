"""Distils the teacher into a student of 4, 2 or 1 steps: python student.py FOLDER.

Consistency distillation over four noise levels. From an image with noise of one level the teacher goes to the
next level in a few small steps, and what the student's running mean sees in that is what the student learns
to see at once. A student's sampler goes to the image it sees and adds fresh noise of the next level.
"""

import torch

import data
from networks import NO_CLASS, Average, UNet
from run import arguments, start
from sampling import LEVELS, TEACHER_STEPS, guided

BATCH = 128
DECAY = 0.99
# Where the loss turns from squares to magnitudes, for each pixel.
SMOOTH = 0.03


def load_teacher(folder):
    network = UNet(NO_CLASS + 1).to(memory_format=torch.channels_last)
    network.load_state_dict(torch.load(folder / "teacher.pt")["average"])
    return network.eval().requires_grad_(False)


def load_student(folder):
    """With the weights that are kept, in f16."""
    network = UNet(NO_CLASS).to(memory_format=torch.channels_last)
    network.load_state_dict(torch.load(folder / "student.pt")["average"])
    return network.half().float().eval().requires_grad_(False)


def beginning(teacher):
    """A student with the teacher's weights, without the class for no class."""
    network = UNet(NO_CLASS).to(memory_format=torch.channels_last)
    weights = teacher.state_dict()
    classes = "unet.class_embedding.weight"
    weights[classes] = weights[classes][:NO_CLASS]
    network.load_state_dict(weights)
    return network


def wide(values):
    """One number for each image."""
    return values[:, None, None, None]


@torch.no_grad()
def seen(teacher, average, x, classes, high, low, guidance):
    """What the running mean sees where the teacher's small steps lead from level `high` to `low`."""
    steps = TEACHER_STEPS // len(LEVELS)
    for step in range(steps):
        level = high + (low - high) * step / steps
        x = x + wide((low - high) / steps) * guided(teacher, x, level, classes, guidance)
    return x - wide(low) * average(x, 1000 * low, classes)


def main(args, group):
    images, labels = data.load("train")
    teacher = load_teacher(args.folder)
    network = load_student(args.folder) if args.resume else beginning(teacher)
    network.train().requires_grad_(True)
    average = Average(network, beginning(teacher), DECAY)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0, betas=(0.9, 0.99))
    levels = torch.tensor(LEVELS + [0.0])
    others = (1 - args.first) / (len(LEVELS) - 1)
    shares = torch.tensor([args.first] + [others] * (len(LEVELS) - 1))
    count, generator = group.part(BATCH), group.generator
    for step, (x0, y) in enumerate(data.batches(images, labels, count, args.steps, generator)):
        at = torch.multinomial(shares, count, replacement=True, generator=generator)
        high, low = levels[at], levels[at + 1]
        noise = torch.randn(x0.shape, generator=generator)
        x = wide(1 - high) * x0 + wide(high) * noise
        target = seen(teacher, average.copy, x, y, high, low, args.guidance)
        found = x - wide(high) * network(x, 1000 * high, y)
        error = (found - target).square().mean((1, 2, 3))
        loss = ((error + SMOOTH**2).sqrt() - SMOOTH).mean()
        over = group.step(network, optimiser, loss, step)
        average.update()
        if group.due(step, over):
            torch.save({"average": average.copy.state_dict(), "steps": step + 1}, args.folder / "student.pt")
        if over:
            break


if __name__ == "__main__":
    parser = arguments(__doc__, steps=3000, rate=4e-4)
    parser.add_argument("--guidance", type=float, default=1.0, help="the teacher's")
    parser.add_argument("--first", type=float, default=0.4, help="how much of a batch is noise alone")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's student")
    start(main, parser.parse_args())
