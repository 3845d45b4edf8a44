"""How teacher and student make images."""

import torch

from data import BORDER, SIDE
from networks import NO_CLASS

TEACHER_STEPS = 20
# Noise levels of the student's four steps; two steps take every other one, one step the first.
LEVELS = [1.0, 0.75, 0.5, 0.25]


def guided(teacher, x, level, classes, guidance):
    """The teacher's velocity at a level [n]; guidance 1 is its prediction for the class alone."""
    if guidance == 1:
        return teacher(x, 1000 * level, classes)
    none = torch.full_like(classes, NO_CLASS)
    both = teacher(torch.cat([x, x]), 1000 * torch.cat([level, level]), torch.cat([classes, none]))
    with_class, without = both.chunk(2)
    return without + guidance * (with_class - without)


def noise(classes, generator):
    side = SIDE + 2 * BORDER
    return torch.randn((len(classes), 1, side, side), generator=generator)


@torch.no_grad()
def teacher_samples(teacher, classes, generator, guidance, steps=TEACHER_STEPS):
    """Euler's steps from noise."""
    x = noise(classes, generator)
    for step in range(steps):
        level = torch.full((len(classes),), 1 - step / steps)
        x = x - guided(teacher, x, level, classes, guidance) / steps
    return x


@torch.no_grad()
def student_samples(student, classes, generator, steps):
    """1, 2 or 4 steps: what the student sees, then fresh noise of the next level."""
    levels = LEVELS[:: len(LEVELS) // steps] + [0.0]
    x = noise(classes, generator)
    for level, following in zip(levels, levels[1:]):
        x = x - level * student(x, torch.full((len(classes),), 1000 * level), classes)
        if following > 0:
            x = (1 - following) * x + following * noise(classes, generator)
    return x
