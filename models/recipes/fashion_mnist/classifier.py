"""Trains the classifier: python classifier.py FOLDER."""

import torch
from torch.nn import functional as F

import data
from networks import Classifier
from run import arguments, start

BATCH = 128


@torch.no_grad()
def accuracy(network, images, labels):
    network.eval()
    right = [network(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500))]
    return torch.cat(right).float().mean().item()


def main(args, group):
    images, labels = data.load("train")
    network = Classifier()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    batches = data.batches(images, labels, group.part(BATCH), args.steps, group.generator)
    for step, (x, y) in enumerate(batches):
        loss = F.cross_entropy(network(x), y, label_smoothing=0.05)
        over = group.step(network, optimiser, loss, step)
        if group.due(step, over):
            torch.save(network.state_dict(), args.folder / "classifier.pt")
        if over:
            break
    if group.first:
        print(f"accuracy on the test images: {accuracy(network, *data.load('t10k')):.4f}")


if __name__ == "__main__":
    start(main, arguments(__doc__, steps=1500, rate=3e-3).parse_args())
