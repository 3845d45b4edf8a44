"""What the training scripts share: arguments, threads, progress, checkpoints."""

import argparse
import time
from pathlib import Path

import torch


def arguments(description, steps, rate, guidance=False):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where checkpoints and samples lie")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, if --steps is not reached")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    if guidance:
        parser.add_argument("--guidance", type=float, default=1.0, help="the teacher's")
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    torch.manual_seed(found.seed)
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


class Clock:
    """Says now and then how far training is, and when its time is over."""

    def __init__(self, minutes, every=100):
        self.start, self.limit, self.every, self.losses = time.time(), minutes * 60, every, []

    def tick(self, step, loss):
        """True when a checkpoint is due."""
        self.losses.append(loss.detach())
        if (step + 1) % self.every:
            return False
        mean = torch.stack(self.losses).mean().item()
        print(f"step {step + 1}  loss {mean:.4f}  {time.time() - self.start:.0f} s", flush=True)
        self.losses = []
        return True

    def over(self):
        return time.time() - self.start > self.limit


def rate_at(step, steps, rate, warmup=100):
    """A short rise, then a line down to a tenth."""
    return rate * min(1.0, (step + 1) / warmup) * (1 - 0.9 * step / steps)
