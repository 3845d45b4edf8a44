"""Trains the classifier: python classifier.py FOLDER (about 5 minutes)."""

import torch
from torch.nn import functional as F

import data
from networks import Classifier
from run import Clock, arguments, rate_at

BATCH = 128


@torch.no_grad()
def accuracy(network, images, labels):
    network.eval()
    right = [network(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500))]
    return torch.cat(right).float().mean().item()


def main():
    args = arguments(__doc__, steps=2400, rate=2e-3)
    images, labels = data.load("train")
    generator = torch.Generator().manual_seed(args.seed)
    network = Classifier().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    clock = Clock(args.minutes)
    for step, (x, y) in enumerate(data.batches(images, labels, BATCH, args.steps, generator)):
        optimiser.param_groups[0]["lr"] = rate_at(step, args.steps, args.rate)
        logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, y, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        clock.tick(step, loss)
        if clock.over():
            break
    print(f"accuracy on the 10,000 test images: {accuracy(network, *data.load('t10k')):.4f}")
    torch.save(network.state_dict(), args.folder / "classifier.pt")


if __name__ == "__main__":
    main()
