"""What the training scripts share: arguments, processes, progress."""

import argparse
import time
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def arguments(description, steps, rate):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where checkpoints lie")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, if --steps is not reached")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each, which share a batch")
    return parser


def start(main, args):
    """Runs `main(args, group)` in each process."""
    args.folder.mkdir(parents=True, exist_ok=True)
    meeting = (args.folder / "meeting").absolute()
    meeting.unlink(missing_ok=True)
    multiprocessing.spawn(enter, (main, args, meeting), args.processes)


def enter(rank, main, args, meeting):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=args.processes)
    main(args, Group(rank, args))
    distributed.destroy_process_group()


class Group:
    """A process among those that train together: all have the same weights, each its part of a batch."""

    def __init__(self, rank, args, every=100):
        self.first, self.args, self.every = rank == 0, args, every
        self.generator = torch.Generator().manual_seed(1000 * args.seed + rank)
        self.start, self.losses = time.time(), []

    def part(self, batch):
        """How many of a batch are this process's."""
        return batch // self.args.processes

    def step(self, network, optimiser, loss, step):
        """Follows the mean gradient; whether training ends."""
        optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for p in network.parameters()]
        past = max((step + 1) / self.args.steps, (time.time() - self.start) / (60 * self.args.minutes))
        told = torch.cat([g.flatten() for g in gradients] + [torch.tensor([past])])
        distributed.all_reduce(told)
        told /= self.args.processes
        past = told[-1].item()
        for gradient, part in zip(gradients, told[:-1].split([g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        # A short rise, then a line down to a tenth.
        rate = self.args.rate * min(1.0, (step + 1) / 100) * max(0.1, 1 - 0.9 * past)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        self.losses.append(loss.detach())
        return past >= 1

    def due(self, step, over):
        """Whether it is time for a checkpoint, and this process writes it; says how far training is."""
        if not self.first or not (over or (step + 1) % self.every == 0):
            return False
        mean = torch.stack(self.losses).mean().item()
        print(f"step {step + 1}  loss {mean:.4f}  {time.time() - self.start:.0f} s", flush=True)
        self.losses = []
        return True
