"""Judges teacher and student: python evaluate.py FOLDER [--count 2000] [--guidance 1].

Accuracy: how many images the classifier gives the class that they were made for. Frechet distance: between
the classifier's features of the images and of the 10,000 test images, as normal distributions.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
from networks import Classifier
from sampling import TEACHER_STEPS, student_samples, teacher_samples
from student import load_student, load_teacher

BATCH = 250


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet(a, b):
    """Of the features [n, d] as normal distributions, in f64."""
    a, b = a.double().numpy(), b.double().numpy()
    first, second = np.cov(a.T), np.cov(b.T)
    half = root(first)
    both = root(half @ second @ half)
    return max(0.0, float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * both)))


class Judge:
    def __init__(self, folder):
        self.classifier = Classifier().eval()
        self.classifier.load_state_dict(torch.load(folder / "classifier.pt"))
        self.real = self.features(data.load("t10k")[0])

    @torch.no_grad()
    def features(self, images):
        return torch.cat([self.classifier.features(x) for x in images.split(BATCH)])

    @torch.no_grad()
    def judge(self, images, classes):
        features = self.features(images)
        right = self.classifier.head(features).argmax(1) == classes
        return {
            "accuracy": round(100 * right.float().mean().item(), 2),
            "frechet": round(frechet(features, self.real), 3),
        }


def picture(images, classes, path, each=10):
    """Rows of images of a class."""
    rows = [torch.cat(list(images[classes == c][:each, 0]), 1) for c in range(data.CLASSES)]
    pixels = ((torch.cat(rows) + 1) * 127.5).round().clamp(0, 255)
    Image.fromarray(pixels.byte().numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--guidance", type=float, default=1.0, help="the teacher's")
    parser.add_argument("--seed", type=int, default=271828)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["real", "teacher", "student"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    judge = Judge(args.folder)
    classes = torch.arange(args.count) % data.CLASSES

    def report(name, make):
        generator = torch.Generator().manual_seed(args.seed)
        images = torch.cat([make(c, generator) for c in classes.split(BATCH)]).clamp(-1, 1)
        picture(images, classes, args.folder / f"{name}.png")
        print(json.dumps({"images": name, "count": args.count} | judge.judge(images, classes)), flush=True)

    if args.only in (None, "real"):
        images, labels = data.load("train")
        print(json.dumps({"images": "real"} | judge.judge(images[: args.count], labels[: args.count])))
        images, labels = data.load("t10k")
        print(json.dumps({"images": "real, held out"} | judge.judge(images, labels)))
    if args.only in (None, "teacher"):
        teacher = load_teacher(args.folder)
        make = lambda c, generator: teacher_samples(teacher, c, generator, args.guidance)
        report(f"teacher-{TEACHER_STEPS}", make)
    if args.only in (None, "student"):
        student = load_student(args.folder)
        for steps in (1, 2, 4):
            report(f"student-{steps}", lambda c, generator: student_samples(student, c, generator, steps))


if __name__ == "__main__":
    main()
