"""Writes the student and the classifier for Limbeck: python export.py FOLDER OUT.

OUT/student is the student as a checkpoint and as an ONNX model, its weights in f16 and its sampler declared, with
a call and its result (`expected.npz`); OUT/classifier.onnx is the classifier, which gives its features too.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from data import BORDER, CLASSES, SIDE
from networks import PATCH, Classifier
from sampling import LEVELS, noise
from student import load_student

STEPS = [1, 2, 4]
SAMPLER = {
    "scheduler": {
        "rule": "flow_match",
        "stochastic_sampling": True,
        "sigmas": [LEVELS[:: len(LEVELS) // steps] for steps in STEPS],
    },
    "steps": STEPS,
    "sample": "sample",
    "output": "out_sample",
    "time": "timestep",
    "values": [-1.0, 1.0],
    "conditions": {"class_labels": {"least": 0, "most": CLASSES - 1}},
}


class Judge(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        features = self.classifier.features(images)
        return self.classifier.head(features), features


def to_onnx(module, given, inputs, outputs, path):
    axes = {name: {0: "batch"} for name in inputs + outputs}
    names = {"input_names": inputs, "output_names": outputs, "dynamic_axes": axes}
    torch.onnx.export(module, given, path, **names, opset_version=17, dynamo=False)


def halve(path):
    """Keeps an ONNX model's weights, which f16 holds exactly, in f16."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.dtype != np.float32 or values.size < 16 or not (half == values).all():
            continue
        name = f"{tensor.name}.f16"
        casts.append(onnx.helper.make_node("Cast", [name], [tensor.name], name, to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, name))
    nodes = casts + list(graph.node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    student = load_student(args.folder)
    folder = args.out / "student"
    folder.mkdir(parents=True, exist_ok=True)
    student.unet.save_config(folder)
    path = folder / "config.json"
    write_json(path, json.loads(path.read_text()) | {"patch_size": PATCH})
    weights = {name: tensor.half().contiguous() for name, tensor in student.unet.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "sampler.json", SAMPLER)
    classes = torch.tensor([3, 8, 0])
    inputs = ["sample", "timestep", "class_labels"]
    given = (noise(classes, torch.Generator().manual_seed(0)), torch.tensor([1000.0, 500.0, 250.0]), classes)
    to_onnx(student, given, inputs, ["out_sample"], folder / "model.onnx")
    halve(folder / "model.onnx")
    expected = dict(zip(inputs, given)) | {"out_sample": student(*given)}
    np.savez(folder / "expected.npz", **{name: tensor.numpy() for name, tensor in expected.items()})
    classifier = Classifier().eval()
    classifier.load_state_dict(torch.load(args.folder / "classifier.pt"))
    side = SIDE + 2 * BORDER
    images = torch.zeros(2, 1, side, side)
    to_onnx(Judge(classifier), (images,), ["images"], ["logits", "features"], args.out / "classifier.onnx")


if __name__ == "__main__":
    main()
