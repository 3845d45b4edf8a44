"""Small seeded ONNX models of each family of operators with what ONNX Runtime computes.

Each case becomes onnx/NAME.onnx and onnx/NAME.npz, which holds one or more calls: tensors
`CALL.in.NAME` and `CALL.out.NAME`, f32 or i64 (truth values as i64). Sizes of the inputs that have a
name in the model differ from call to call.

    python tests/golden/onnx_models.py
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

OUT = Path(__file__).parent / "onnx"
DTYPES = {"f32": T.FLOAT, "i64": T.INT64, "bool": T.BOOL}


class Model:
    """A graph that grows node by node."""

    def __init__(self, opset, seed):
        self.opset, self.nodes, self.constants = opset, [], []
        self.inputs, self.outputs = [], []
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def input(self, name, shape, dtype="f32"):
        self.inputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))
        return name

    def const(self, value):
        value = np.asarray(value)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape, scale=1.0):
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, kind, *inputs, outputs=1, out=None, **attributes):
        names = []
        for i in range(outputs):
            self.count += 1
            names.append(out if out and outputs == 1 else f"v{self.count}")
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"n{self.count}_{kind}", **attributes))
        return names[0] if outputs == 1 else names

    def give(self, value, name=None, dtype="f32"):
        """Makes a value an output."""
        name = name or f"y{len(self.outputs)}"
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], None))

    def save(self, case, calls, infer=False, said=()):
        graph = helper.make_graph(self.nodes, case, self.inputs, self.outputs, self.constants, value_info=said)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="limbeck-tests")
        if infer:
            model = onnx.shape_inference.infer_shapes(model)
        path = OUT / f"{case}.onnx"
        onnx.save(model, path)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        tensors = {}
        for number, call in enumerate(calls):
            for name, value in call.items():
                tensors[f"{number}.in.{name}"] = value
            for output, value in zip(session.get_outputs(), session.run(None, call)):
                value = value.astype(np.int64) if value.dtype == bool else value
                assert value.dtype in (np.float32, np.int64), (case, output.name, value.dtype)
                assert value.dtype != np.float32 or np.isfinite(value).all(), (case, output.name)
                tensors[f"{number}.out.{output.name}"] = value
        np.savez_compressed(OUT / f"{case}.npz", **tensors)


def floats(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def elementwise():
    m = Model(18, 1)
    x, y = m.input("x", ["n", 5, 7]), m.input("y", ["n", 1, 7])
    for kind in ["Neg", "Abs", "Sign", "Exp", "Erf", "Sigmoid", "Sin", "Cos", "Floor", "Ceil", "Round",
                 "Relu", "Tanh", "Softplus", "Softsign", "Mish", "HardSwish", "HardSigmoid", "Selu"]:
        m.give(m.op(kind, x), f"{kind}")
    positive = m.op("Abs", x)
    for kind in ["Sqrt", "Log", "Reciprocal"]:
        m.give(m.op(kind, positive), kind)
    m.give(m.op("LeakyRelu", x, alpha=0.2))
    m.give(m.op("Elu", x, alpha=0.7))
    m.give(m.op("PRelu", x, m.random(5, 1)))
    m.give(m.op("Clip", x, m.const(np.float32(-0.5)), m.const(np.float32(0.75))))
    m.give(m.op("Clip", x, "", m.const(np.float32(0.25))))
    for kind in ["Add", "Sub", "Mul", "Div", "Min", "Max"]:
        m.give(m.op(kind, x, y), f"{kind}")
        m.give(m.op(kind, m.random(5, 1), x), f"{kind}_constant")
    m.give(m.op("Pow", positive, m.const(np.float32(2.5))))
    m.give(m.op("Pow", x, m.const(np.float32(2.0))))
    m.give(m.op("Pow", x, m.const(np.int64(3))))
    m.give(m.op("Mod", x, m.const(np.float32(0.7)), fmod=1))
    for kind in ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]:
        m.give(m.op(kind, x, y), kind, "bool")
    less, more = m.op("Less", x, y), m.op("Greater", x, m.const(np.float32(0.3)))
    m.give(m.op("And", less, more), "And", "bool")
    m.give(m.op("Or", less, more), "Or", "bool")
    m.give(m.op("Xor", less, more), "Xor", "bool")
    m.give(m.op("Not", less), "Not", "bool")
    m.give(m.op("Where", less, x, y))
    masked = m.op("Where", less, x, m.const(np.float32(-np.inf)))
    m.give(m.op("Max", masked, m.const(np.float32(-9.0))))
    m.give(m.op("IsNaN", m.op("Sqrt", x)), "IsNaN", "bool")
    m.give(m.op("Sum", x, y, m.random(7)))
    m.give(m.op("Mean", x, y, m.random(7)))
    m.give(m.op("Cast", m.op("Mul", x, m.const(np.float32(3.0))), to=T.INT64), "Cast", "i64")
    # Chains that a fused step computes, and what is GELU and SiLU.
    half = m.op("Mul", x, m.const(np.float32(0.5)))
    erf = m.op("Erf", m.op("Div", x, m.const(np.float32(np.sqrt(2)))))
    m.give(m.op("Mul", half, m.op("Add", erf, m.const(np.float32(1.0)))), "gelu")
    m.give(m.op("Mul", x, m.op("Sigmoid", x)), "silu")
    m.save("elementwise", [dict(x=floats(1, n, 5, 7), y=floats(2, n, 1, 7)) for n in (3, 1)])


def integers():
    m = Model(18, 2)
    a, b = m.input("a", ["n", 4], "i64"), m.input("b", [4], "i64")
    for kind in ["Add", "Sub", "Mul", "Div", "Min", "Max", "Mod"]:
        m.give(m.op(kind, a, b), kind, "i64")
    m.give(m.op("Mod", a, b, fmod=1), "Rem", "i64")
    for kind in ["Neg", "Abs", "Sign"]:
        m.give(m.op(kind, a), kind, "i64")
    m.give(m.op("Equal", a, b), "Equal", "bool")
    m.give(m.op("Where", m.op("Less", a, b), a, b), "Where", "i64")
    m.give(m.op("Cast", a, to=T.FLOAT), "Cast")
    m.give(m.op("Cast", m.op("Cast", a, to=T.BOOL), to=T.INT64), "truth", "i64")
    m.give(m.op("ReduceSum", a, m.const(np.array([1])), keepdims=0), "ReduceSum", "i64")
    m.give(m.op("ReduceMax", a, m.const(np.array([0]))), "ReduceMax", "i64")
    rng = np.random.default_rng(5)
    call = lambda n: dict(a=rng.integers(-9, 9, (n, 4)), b=np.array([3, -4, 5, -1]))
    m.save("integers", [call(3), call(1)])


def layout():
    m = Model(18, 3)
    x = m.input("x", ["n", "t", 6, 4])
    shape = m.op("Shape", x)
    one = lambda i: m.op("Gather", shape, m.const(np.int64(i)), axis=0)
    wide = lambda v: m.op("Unsqueeze", v, m.const(np.array([0])))
    m.give(shape, "shape", "i64")
    m.give(m.op("Size", x), "size", "i64")
    joined = m.op("Mul", one(0), one(1))
    target = m.op("Concat", wide(joined), m.const(np.array([-1])), axis=0)
    m.give(m.op("Reshape", x, target), "joined")
    m.give(m.op("Reshape", x, m.const(np.array([0, 0, 3, 2, -1]))), "split")
    m.give(m.op("Flatten", x, axis=2), "flat")
    turned = m.op("Transpose", x, perm=[0, 2, 3, 1])
    m.give(turned, "turned")
    m.give(m.op("Transpose", x), "reversed")
    m.give(m.op("Reshape", turned, m.const(np.array([0, 24, -1]))), "turned_joined")
    m.give(m.op("Add", turned, m.random(6, 4, 1)), "turned_added")
    m.give(m.op("Unsqueeze", x, m.const(np.array([1, -1]))), "unsqueezed")
    m.give(m.op("Squeeze", m.op("Slice", x, m.const([1]), m.const([2]), m.const([2])), m.const(np.array([2]))), "squeezed")
    slices = [([1], [3], [2], [1]), ([-2], [2**62], [3], [1]), ([5], [-(2**62)], [2], [-2]),
              ([0], [2**62], [1], [2]), ([1], [2**62], [1], [1]), ([-1], [-(2**62)], [1], [-1]),
              ([0, 1], [-1, 3], [1, 3], [1, 1])]
    for i, (start, end, axes, steps) in enumerate(slices):
        arguments = [m.const(np.array(v)) for v in (start, end, axes, steps)]
        m.give(m.op("Slice", x, *arguments), f"slice{i}")
    for i, part in enumerate(m.op("Split", x, m.const(np.array([1, 2, 3])), outputs=3, axis=2)):
        m.give(part, f"part{i}")
    for i, part in enumerate(m.op("Split", turned, outputs=2, axis=2, num_outputs=2)):
        m.give(part, f"half{i}")
    m.give(m.op("Concat", x, m.op("Neg", x), x, axis=-1), "concat")
    m.give(m.op("Concat", turned, m.op("Exp", turned), axis=1), "concat_turned")
    m.give(m.op("Expand", m.op("Slice", x, m.const([0]), m.const([1]), m.const([3])), m.op("Concat", shape, axis=0)), "expanded")
    m.give(m.op("Expand", m.random(1, 4), m.op("Concat", wide(one(1)), m.const(np.array([6, 1])), axis=0)), "expanded_constant")
    for mode in ["constant", "edge", "reflect", "wrap"]:
        pads = m.const(np.array([0, 0, 1, 2, 0, 0, 3, 1]))
        extra = [m.const(np.float32(0.5))] if mode == "constant" else []
        m.give(m.op("Pad", x, pads, *extra, mode=mode), f"pad_{mode}")
    filled = m.op("ConstantOfShape", m.op("Concat", wide(one(1)), m.const(np.array([3])), axis=0),
                  value=numpy_helper.from_array(np.array([1.5], np.float32)))
    m.give(filled, "filled")
    m.give(m.op("Range", m.const(np.int64(2)), m.op("Add", joined, m.const(np.int64(5))), m.const(np.int64(3))), "range", "i64")
    m.save("layout", [dict(x=floats(7, n, t, 6, 4)) for n, t in ((2, 3), (1, 5))])


def gather():
    m = Model(18, 4)
    x, ids = m.input("x", ["n", 6, 3]), m.input("ids", ["n", "t"], "i64")
    m.give(m.op("Gather", m.random(11, 8), ids), "embedding")
    m.give(m.op("Gather", x, m.const(np.array([[0, -1], [5, 2]])), axis=1), "gather")
    m.give(m.op("Gather", x, m.const(np.int64(-2)), axis=1), "gather_one")
    m.give(m.op("Gather", m.random(4, 11), ids, axis=1), "gather_constant")
    m.give(m.op("GatherElements", x, m.const(np.array([[[0, 1, 2], [3, -1, 0]]])), axis=1), "elements")
    m.give(m.op("GatherND", x, m.op("Unsqueeze", m.op("Mul", ids, m.const(np.int64(0))), m.const(np.array([2])))), "nd")
    pairs = m.op("Concat", *[m.op("Unsqueeze", v, m.const(np.array([2]))) for v in
                             (m.op("Mul", ids, m.const(np.int64(0))), m.op("Mod", ids, m.const(np.int64(6))))], axis=2)
    m.give(m.op("GatherND", x, pairs), "nd_pairs")
    call = lambda n, t: dict(x=floats(9, n, 6, 3), ids=np.random.default_rng(t).integers(0, 11, (n, t)))
    m.save("gather", [call(2, 5), call(1, 3)])


def products():
    m = Model(18, 5)
    a, b = m.input("a", ["n", 2, "t", 10]), m.input("b", ["n", 2, "s", 10])
    m.give(m.op("MatMul", a, m.random(10, 19)), "linear")
    biased = m.op("Add", m.op("MatMul", a, m.random(10, 19)), m.random(19))
    m.give(m.op("Relu", biased), "biased")
    scores = m.op("MatMul", a, m.op("Transpose", b, perm=[0, 1, 3, 2]))
    m.give(scores, "scores")
    m.give(m.op("MatMul", m.op("Softmax", scores, axis=-1), b), "attended")
    m.give(m.op("MatMul", a, m.random(2, 10, 5)), "batched_constant")
    m.give(m.op("MatMul", m.random(7, 10), m.op("Transpose", a, perm=[0, 1, 3, 2])), "left_constant")
    m.give(m.op("MatMul", a, m.random(10)), "vector")
    m.give(m.op("MatMul", m.random(10), m.op("Transpose", b, perm=[0, 1, 3, 2])), "row")
    m.give(m.op("Einsum", a, b, equation="nhtd,nhsd->nhts"), "einsum")
    m.give(m.op("Einsum", a, b, equation="nhtd, nhsd -> nhst"), "einsum_turned")
    flat = m.op("Reshape", a, m.const(np.array([-1, 10])))
    m.give(m.op("Gemm", flat, m.random(10, 6), m.random(6), alpha=0.5, beta=2.0), "gemm")
    m.give(m.op("Gemm", flat, m.random(6, 10), m.random(1, 6), transB=1), "gemm_turned")
    m.give(m.op("Gemm", flat, flat, transB=1), "gemm_square")
    m.give(m.op("Gemm", flat, m.op("Reshape", b, m.const(np.array([-1, 10]))), transB=1, alpha=0.3), "gemm_values")
    call = lambda n, t, s: dict(a=floats(11, n, 2, t, 10), b=floats(12, n, 2, s, 10))
    m.save("products", [call(2, 5, 7), call(1, 1, 3)])


def conv():
    m = Model(18, 6)
    x, z = m.input("x", ["n", 6, "h", "w"]), m.input("z", ["n", 4, "t"])
    m.give(m.op("Conv", x, m.random(8, 6, 3, 3), m.random(8), pads=[1, 1, 1, 1]), "same")
    m.give(m.op("Conv", x, m.random(5, 6, 3, 2), strides=[2, 1], pads=[0, 1, 2, 0], dilations=[1, 2]), "uneven")
    m.give(m.op("Conv", x, m.random(9, 2, 3, 3), group=3), "grouped")
    m.give(m.op("Conv", x, m.random(6, 1, 3, 3), m.random(6), group=6, pads=[1, 1, 1, 1]), "depthwise")
    m.give(m.op("Conv", x, m.random(12, 1, 3, 3), group=6), "multiplied")
    m.give(m.op("Conv", x, m.random(7, 6, 1, 1)), "pixel")
    m.give(m.op("Conv", x, m.random(4, 6, 2, 2), auto_pad="SAME_UPPER"), "same_upper")
    m.give(m.op("Conv", z, m.random(5, 4, 3), m.random(5), strides=[2], pads=[2, 1]), "line")
    norm = [m.random(8), m.random(8), m.random(8), m.const(np.abs(floats(3, 8)) + 0.5)]
    body = m.op("BatchNormalization", m.op("Conv", x, m.random(8, 6, 3, 3), pads=[1, 1, 1, 1]), *norm)
    skip = m.op("Conv", x, m.random(8, 6, 1, 1))
    m.give(m.op("Relu", m.op("Add", body, skip)), "residual")
    gate = m.op("Sigmoid", m.op("Conv", m.op("GlobalAveragePool", body), m.random(8, 8, 1, 1)))
    m.give(m.op("Mul", body, gate), "gated")
    m.give(m.op("ConvTranspose", x, m.random(6, 4, 2, 2), m.random(4), strides=[2, 2]), "up")
    m.give(m.op("ConvTranspose", x, m.random(6, 5, 3, 3), strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 0], dilations=[1, 2]), "up_uneven")
    m.give(m.op("ConvTranspose", x, m.random(6, 2, 3, 3), group=3), "up_grouped")
    m.give(m.op("ConvTranspose", z, m.random(4, 3, 4), strides=[2], pads=[1, 1]), "up_line")
    call = lambda n, h, w, t: dict(x=floats(13, n, 6, h, w), z=floats(14, n, 4, t))
    m.save("conv", [call(2, 7, 6, 9), call(1, 5, 8, 4)])


def images():
    m = Model(18, 7)
    x, z = m.input("x", ["n", 3, "h", "w"]), m.input("z", ["n", 4, "t"])
    m.give(m.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), "max")
    m.give(m.op("MaxPool", z, kernel_shape=[3], strides=[2]), "max_line")
    m.give(m.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), "mean")
    m.give(m.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), "mean_inside")
    m.give(m.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), "mean_padded")
    m.give(m.op("GlobalAveragePool", x), "global_mean")
    m.give(m.op("GlobalMaxPool", x), "global_max")
    scale = lambda *v: m.const(np.array(v, np.float32))
    for mode in ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]:
        for nearest in ["floor", "round_prefer_floor", "round_prefer_ceil", "ceil"]:
            m.give(m.op("Resize", x, "", scale(1, 1, 2, 2), mode="nearest", nearest_mode=nearest,
                        coordinate_transformation_mode=mode), f"nearest_{mode}_{nearest}")
        m.give(m.op("Resize", x, "", scale(1, 1, 2, 3), mode="linear",
                    coordinate_transformation_mode=mode), f"linear_{mode}")
    m.give(m.op("Resize", x, "", scale(1, 1, 0.5, 0.5), mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric"), "half")
    shape = m.op("Shape", x)
    doubled = m.op("Mul", m.op("Slice", shape, m.const([2]), m.const([4])), m.const(np.array([2, 3])))
    sizes = m.op("Concat", m.op("Slice", shape, m.const([0]), m.const([2])), doubled, axis=0)
    m.give(m.op("Resize", x, "", "", sizes, mode="linear"), "sizes")
    deep = m.op("Conv", x, m.random(8, 3, 1, 1))
    m.give(m.op("DepthToSpace", deep, blocksize=2), "depth")
    m.give(m.op("DepthToSpace", deep, blocksize=2, mode="CRD"), "depth_crd")
    m.give(m.op("SpaceToDepth", m.op("Resize", x, "", scale(1, 1, 2, 2), mode="nearest"), blocksize=2), "space")
    call = lambda n, h, w, t: dict(x=floats(15, n, 3, h, w), z=floats(16, n, 4, t))
    m.save("images", [call(2, 6, 4, 9), call(1, 5, 7, 6)])
    # Sizes that are known where the model is made.
    m = Model(13, 8)
    x = m.input("x", ["n", 3, 11, 8])
    m.give(m.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "max_ceil")
    m.give(m.op("AveragePool", x, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1), "mean_ceil")
    m.give(m.op("Conv", x, m.random(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]), "same_upper")
    m.give(m.op("Conv", x, m.random(4, 3, 4, 3), auto_pad="SAME_LOWER", strides=[2, 3]), "same_lower")
    m.give(m.op("MaxPool", x, kernel_shape=[2, 2], auto_pad="VALID"), "valid")
    m.save("images_known", [dict(x=floats(17, n, 3, 11, 8)) for n in (2, 1)])


def norms():
    m = Model(17, 9)
    x, t = m.input("x", ["n", 12, "h", "w"]), m.input("t", ["n", "s", 20])
    positive = m.const(np.abs(floats(4, 12)) + 0.5)
    m.give(m.op("BatchNormalization", x, m.random(12), m.random(12), m.random(12), positive), "batch")
    m.give(m.op("InstanceNormalization", x, m.random(12), m.random(12)), "instance")
    m.give(m.op("LayerNormalization", t, m.random(20), m.random(20)), "layer")
    m.give(m.op("LayerNormalization", t, m.random(20), axis=-1, epsilon=1e-3), "layer_plain")
    # As PyTorch exports a group norm.
    rest = m.op("Reshape", x, m.const(np.array([0, 3, -1])))
    normed = m.op("InstanceNormalization", rest, m.const(np.ones(3, np.float32)), m.const(np.zeros(3, np.float32)))
    whole = m.op("Reshape", normed, m.op("Shape", x))
    m.give(m.op("Add", m.op("Mul", whole, m.random(12, 1, 1)), m.random(12, 1, 1)), "group")
    # And a layer norm before there was one.
    mean = m.op("ReduceMean", t, axes=[-1])
    off = m.op("Sub", t, mean)
    variance = m.op("ReduceMean", m.op("Pow", off, m.const(np.float32(2.0))), axes=[-1])
    root = m.op("Sqrt", m.op("Add", variance, m.const(np.float32(1e-5))))
    m.give(m.op("Add", m.op("Mul", m.op("Div", off, root), m.random(20)), m.random(20)), "layer_written")
    call = lambda n, h, w, s: dict(x=floats(18, n, 12, h, w), t=floats(19, n, s, 20))
    m.save("norms", [call(2, 5, 4, 3), call(1, 3, 7, 6)])
    m = Model(21, 10)
    x = m.input("x", ["n", 8, "w"])
    m.give(m.op("GroupNormalization", x, m.random(8), m.random(8), num_groups=4), "group")
    m.save("norms_21", [dict(x=floats(20, n, 8, w)) for n, w in ((2, 5), (1, 9))])


def reductions():
    m = Model(18, 11)
    x = m.input("x", ["n", 5, "t", 9])
    axes = lambda *v: m.const(np.array(v))
    for kind in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"]:
        m.give(m.op(kind, x, axes(-1)), f"{kind}_last")
        m.give(m.op(kind, x, axes(1, 2), keepdims=0), f"{kind}_middle")
    m.give(m.op("ReduceMean", x, keepdims=0), "everything")
    turned = m.op("Transpose", x, perm=[0, 3, 1, 2])
    m.give(m.op("ReduceMax", turned, axes(1, 3)), "turned")
    for axis in (1, 3):
        m.give(m.op("ArgMax", x, axis=axis), f"argmax{axis}", "i64")
        m.give(m.op("ArgMin", x, axis=axis, keepdims=0), f"argmin{axis}", "i64")
        m.give(m.op("Softmax", x, axis=axis), f"softmax{axis}")
        m.give(m.op("LogSoftmax", x, axis=axis), f"logsoftmax{axis}")
    m.save("reductions", [dict(x=floats(21, n, 5, t, 9)) for n, t in ((2, 4), (1, 7))])
    m = Model(11, 12)
    x = m.input("x", ["n", 5, 4])
    m.give(m.op("Softmax", x), "softmax")
    m.give(m.op("ReduceSum", x, axes=[1]), "sum")
    m.give(m.op("Squeeze", m.op("Unsqueeze", x, axes=[0, 3]), axes=[0]), "axes")
    m.give(m.op("Split", x, outputs=2, axis=1, split=[2, 3])[1], "part")
    m.save("reductions_11", [dict(x=floats(22, n, 5, 4)) for n in (2, 1)])


def recurrent():
    m = Model(18, 13)
    x, h, c = m.input("x", ["t", "n", 6]), m.input("h", [1, "n", 8]), m.input("c", [1, "n", 8])
    weights = lambda d: (m.random(d, 32, 6, scale=0.5), m.random(d, 32, 8, scale=0.5), m.random(d, 64, scale=0.5))
    for name, value in zip("yhc", m.op("LSTM", x, *weights(1), "", h, c, outputs=3, hidden_size=8)):
        m.give(value, f"carried_{name}")
    for name, value in zip("yhc", m.op("LSTM", x, *weights(2), outputs=3, hidden_size=8, direction="bidirectional")):
        m.give(value, f"both_{name}")
    m.give(m.op("LSTM", x, *weights(1)[:2], outputs=3, hidden_size=8, direction="reverse")[1], "reverse_h")
    call = lambda t, n: dict(x=floats(23, t, n, 6), h=floats(24, 1, n, 8), c=floats(25, 1, n, 8))
    m.save("recurrent", [call(5, 2), call(1, 1)])


def quantised():
    m = Model(18, 16)
    x, f = m.input("x", ["n", "t", 16]), m.input("f", ["n", 3, "t", 16])
    y, scale, zero = m.op("DynamicQuantizeLinear", x, outputs=3)
    weight = m.const(m.rng.integers(-127, 128, (16, 9)).astype(np.int8))
    columns = m.const(m.rng.integers(-5, 5, 9).astype(np.int8))
    for name, extra in (("integer", []), ("integer_columns", [columns])):
        product = m.op("MatMulInteger", y, weight, zero, *extra)
        m.give(m.op("Mul", m.op("Cast", product, to=T.FLOAT), scale), name)
    stored = m.const(m.rng.integers(-127, 128, (16, 9)).astype(np.int8))
    scales = m.const(np.abs(floats(6, 9)) / 50)
    m.give(m.op("MatMul", x, m.op("DequantizeLinear", stored, scales, columns, axis=1)), "dequantised")
    unsigned, signed = m.const(np.uint8(131)), m.const(np.int8(-3))
    step = m.const(np.float32(0.03))
    for name, zero in (("unsigned", unsigned), ("signed", signed)):
        m.give(m.op("DequantizeLinear", m.op("QuantizeLinear", x, step, zero), step, zero), name)
    channels = m.const(np.array([0.02, 0.03, 0.05], np.float32))
    zeros = m.const(np.array([128, 120, 140], np.uint8))
    m.give(m.op("DequantizeLinear", m.op("QuantizeLinear", f, channels, zeros, axis=1), channels, zeros, axis=1), "channels")
    call = lambda n, t: dict(x=floats(28, n, t, 16), f=floats(29, n, 3, t, 16))
    m.save("quantised", [call(2, 5), call(1, 3)])


def contrib():
    m = Model(18, 17)
    ms = dict(domain="com.microsoft")
    x, r = m.input("x", ["n", "t", 32]), m.input("r", ["n", "t", 32])
    m.give(m.op("SimplifiedLayerNormalization", x, m.random(32), epsilon=1e-5, axis=-1, stash_type=1), "rms")
    for kind, extra in (("SkipSimplifiedLayerNormalization", []), ("SkipLayerNormalization", [m.random(32)])):
        m.count += 1
        out, total = f"s{m.count}", f"t{m.count}"
        m.nodes.append(helper.make_node(kind, [x, r, m.random(32), *extra, m.random(32)], [out, "", "", total],
                                        epsilon=1e-5, **ms))
        m.give(out, kind)
        m.give(total, f"{kind}_sum")
    m.give(m.op("Gelu", x, **ms), "gelu")
    m.give(m.op("FastGelu", x, m.random(32), **ms), "fast_gelu")
    m.give(m.op("BiasGelu", x, m.random(32), **ms), "bias_gelu")
    m.give(m.op("QuickGelu", x, alpha=1.702, **ms), "quick_gelu")
    m.give(m.op("FusedMatMul", x, r, transB=1, alpha=0.25, **ms), "fused")
    bits = lambda *shape: m.const(m.rng.integers(0, 256, shape).astype(np.uint8))
    scales = m.const(np.abs(floats(7, 20 * 2)) / 8)
    m.give(m.op("MatMulNBits", x, bits(20, 2, 8), scales, K=32, N=20, bits=4, block_size=16, **ms), "bits")
    m.give(m.op("MatMulNBits", x, bits(20, 2, 8), scales, bits(20, 1), K=32, N=20, bits=4, block_size=16, **ms), "bits_zeros")
    m.save("contrib", [dict(x=floats(30, n, t, 32), r=floats(31, n, t, 32)) for n, t in ((2, 5), (1, 3))])


def every_op():
    """A little of everything, for plans that are then spoiled."""
    m = Model(18, 15)
    x, ids = m.input("x", ["n", 3, 6, 4]), m.input("ids", ["n", 2], "i64")
    y = m.op("Conv", x, m.random(4, 3, 3, 3), m.random(4), pads=[1, 1, 1, 1])
    y = m.op("Relu", m.op("Conv", y, m.random(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]))
    y = m.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = m.op("Resize", y, "", m.const(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    y = m.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = m.op("ConvTranspose", y, m.random(4, 2, 2, 2), m.random(2), strides=[2, 2])
    y = m.op("InstanceNormalization", y, m.random(2), m.random(2))
    y = m.op("Pad", m.op("Sin", y), m.const(np.array([0, 0, 1, 0, 0, 0, 0, 1])), mode="reflect")
    rows = m.op("Reshape", y, m.const(np.array([0, 10, 7])))
    rows = m.op("LayerNormalization", rows, m.random(7), m.random(7))
    scores = m.op("Softmax", m.op("MatMul", rows, m.op("Transpose", rows, perm=[0, 2, 1])))
    rows = m.op("Add", m.op("MatMul", scores, rows), m.op("MatMul", rows, m.random(7, 7)))
    mean = m.op("ReduceMean", rows, m.const(np.array([1])), keepdims=0)
    words = m.op("Gather", m.random(5, 7), ids)
    words = m.op("Concat", words, m.op("Unsqueeze", mean, m.const(np.array([1]))), axis=1)
    picked = m.op("GatherElements", words, m.op("Expand", m.op("Unsqueeze", ids, m.const(np.array([2]))),
                  m.op("Concat", m.op("Shape", ids), m.const(np.array([7])), axis=0)), axis=1)
    time = m.op("Transpose", m.op("Slice", picked, m.const([-1]), m.const([-9]), m.const([1]), m.const([-1])), perm=[1, 0, 2])
    states = m.op("LSTM", time, m.random(1, 12, 7), m.random(1, 12, 3), outputs=3, hidden_size=3)
    m.give(states[0], "states")
    best = m.op("ArgMax", words, axis=2, keepdims=0)
    m.give(m.op("Where", m.op("Less", best, ids2(m, ids)), best, m.op("Neg", best)), "best", "i64")
    m.give(m.op("Gather", x, m.op("Mod", ids, m.const(np.int64(4))), axis=3), "columns")
    count = m.op("Gather", m.op("Shape", x), m.const(np.int64(0)), axis=0)
    m.give(m.op("Range", m.const(np.int64(0)), count, m.const(np.int64(1))), "range", "i64")
    call = lambda n: dict(x=floats(27, n, 3, 6, 4), ids=np.random.default_rng(n).integers(0, 2, (n, 2)))
    m.save("every_op", [call(2), call(1)])


def ids2(m, ids):
    return m.op("Concat", ids, m.op("Slice", ids, m.const([0]), m.const([1]), m.const([1])), axis=1)


def branches():
    m = Model(18, 14)
    x, rate = m.input("x", ["n", 4]), m.input("rate", [], "i64")
    info = helper.make_tensor_value_info("r", T.FLOAT, None)
    inner = lambda kind, name: helper.make_graph([helper.make_node(kind, ["x"], ["r"])], name, [], [info])
    fast = m.op("Equal", rate, m.const(np.int64(16)))
    m.give(m.op("If", fast, then_branch=inner("Neg", "then"), else_branch=inner("Exp", "else")), "y")
    call = lambda n, rate: dict(x=floats(26, n, 4), rate=np.array(rate))
    m.save("branches", [call(2, 16), call(3, 8)])


def ordered():
    """Operators in which the order of elements counts, and repeats."""
    m = Model(18, 32)
    x = m.input("x", ["n", 5, 4])
    for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
        m.give(m.op("CumSum", x, m.const(np.int64(1)), exclusive=exclusive, reverse=reverse), f"sum_{exclusive}{reverse}")
    m.give(m.op("CumSum", x, m.const(np.int64(-1))), "sum_last")
    for largest in (0, 1):
        value, index = m.op("TopK", x, m.const(np.array([1])), outputs=2, axis=1, largest=largest)
        m.give(value, f"value_{largest}")
        m.give(index, f"index_{largest}", "i64")
    m.give(m.op("Tile", x, m.const(np.array([2, 1, 3]))), "tiled")
    for upper, k in ((1, None), (0, None), (1, 2), (0, -1)):
        given = [x] if k is None else [x, m.const(np.int64(k))]
        m.give(m.op("Trilu", *given, upper=upper), f"triangle_{upper}_{k}")
    whole = m.op("Trilu", m.op("Cast", x, to=T.INT64), upper=0)
    m.give(whole, "triangle_of_integers", "i64")
    count = m.op("Shape", x, start=0, end=1)
    m.give(m.op("Tile", m.random(1, 3), m.op("Concat", count, m.const(np.array([2])), axis=0)), "by_size")
    m.save("ordered", [dict(x=floats(42, n, 5, 4)) for n in (2, 3)])


def gated():
    """Gated recurrent units over known steps."""
    m = Model(18, 33)
    x, h = m.input("x", [4, "n", 6]), m.input("h", [2, "n", 5])
    weights = lambda d: (m.random(d, 15, 6, scale=0.5), m.random(d, 15, 5, scale=0.5), m.random(d, 30, scale=0.3))
    one = m.op("Slice", h, m.const([0]), m.const([1]), m.const([0]))
    for after in (0, 1):
        for name, value in zip(("y", "h"), m.op("GRU", x, *weights(1), "", one, outputs=2, hidden_size=5, linear_before_reset=after)):
            m.give(value, f"{name}_{after}")
        both = m.op("GRU", x, *weights(2), "", h, outputs=2, hidden_size=5, direction="bidirectional", linear_before_reset=after)
        for name, value in zip(("y", "h"), both):
            m.give(value, f"{name}_both_{after}")
        m.give(m.op("GRU", x, *weights(1), outputs=2, hidden_size=5, direction="reverse", linear_before_reset=after)[0], f"bare_{after}")
    m.save("gated", [dict(x=floats(43, 4, n, 6), h=floats(44, 2, n, 5)) for n in (3, 1)])


def quantised_linear():
    """Operators from quantised values to such."""
    m = Model(18, 34)
    x, rows = m.input("x", ["n", 3, 6, 5]), m.input("rows", ["n", 8])
    ms = dict(domain="com.microsoft")
    scale = lambda v: m.const(np.float32(v))
    u8 = lambda *shape: m.const(m.rng.integers(0, 256, shape).astype(np.uint8))
    i8 = lambda *shape: m.const(m.rng.integers(-127, 128, shape).astype(np.int8))
    zero = m.const(np.uint8(120))
    q = m.op("QuantizeLinear", x, scale(0.02), zero)
    narrow = lambda value: m.op("Cast", value, to=T.INT64)
    w, w_zero = u8(4, 3, 3, 3), m.const(np.uint8(131))
    m.give(narrow(m.op("ConvInteger", q, w, zero, w_zero, pads=[1, 1, 1, 1])), "integer", "i64")
    m.give(narrow(m.op("ConvInteger", q, u8(4, 3, 2, 2))), "integer_plain", "i64")
    out = m.const(np.uint8(90))
    bias = m.const(m.rng.integers(-2000, 2000, 4).astype(np.int32))
    scales = m.const(np.array([0.01, 0.02, 0.015, 0.005], np.float32))
    zeros = m.const(np.zeros(4, np.int8))
    y = m.op("QLinearConv", q, scale(0.02), zero, i8(4, 3, 3, 3), scales, zeros, scale(0.3), out, bias, strides=[2, 1])
    m.give(narrow(y), "conv", "i64")
    m.give(m.op("DequantizeLinear", m.op("QLinearConv", q, scale(0.02), zero, w, scale(0.01), w_zero, scale(0.4), out), scale(0.4), out), "conv_one")
    a = m.op("QuantizeLinear", rows, scale(0.03), zero)
    b, b_zero = u8(8, 6), m.const(np.uint8(128))
    y = m.op("QLinearMatMul", a, scale(0.03), zero, b, scale(0.01), b_zero, scale(0.1), out)
    m.give(narrow(y), "product", "i64")
    float_scale = m.const(np.float32(0.03))
    m.give(m.op("MatMulIntegerToFloat", a, b, float_scale, scale(0.01), zero, b_zero, m.random(6), **ms), "to_float")
    m.give(narrow(m.op("QLinearAdd", a, scale(0.03), zero, u8(8), scale(0.02), b_zero, scale(0.05), out, **ms)), "add", "i64")
    m.give(narrow(m.op("QLinearMul", a, scale(0.03), zero, u8(8), scale(0.02), b_zero, scale(0.05), out, **ms)), "mul", "i64")
    m.save("quantised_linear", [dict(x=floats(45, n, 3, 6, 5), rows=floats(46, n, 8)) for n in (2, 1)])


def rotary():
    """Rotary embeddings as ONNX Runtime has them."""
    m = Model(18, 35)
    x, y, ids = m.input("x", ["n", "t", 24]), m.input("y", ["n", 3, "t", 8]), m.input("ids", ["n", "t"], "i64")
    first = m.input("first", [1], "i64")
    ms = dict(domain="com.microsoft")
    angles = np.outer(np.arange(12), 0.3 ** np.arange(4)).astype(np.float32)
    cos, sin = m.const(np.cos(angles)), m.const(np.sin(angles))
    small = m.const(np.cos(angles[:, :3])), m.const(np.sin(angles[:, :3]))
    for interleaved in (0, 1):
        m.give(m.op("RotaryEmbedding", x, ids, cos, sin, interleaved=interleaved, **ms), f"tokens_{interleaved}")
        m.give(m.op("RotaryEmbedding", y, first, cos, sin, interleaved=interleaved, **ms), f"heads_{interleaved}")
        m.give(m.op("RotaryEmbedding", y, ids, cos, sin, interleaved=interleaved, **ms), f"heads_ids_{interleaved}")
    m.give(m.op("RotaryEmbedding", x, first, *small, num_heads=3, rotary_embedding_dim=6, **ms), "part")
    call = lambda n, t: dict(x=floats(47, n, t, 24), y=floats(48, n, 3, t, 8), first=np.array([2]),
                             ids=(np.arange(t)[None] + np.arange(n)[:, None]).astype(np.int64))
    m.save("rotary", [call(2, 5), call(1, 3)])


def segments():
    """Nodes without a native form among others: ONNX Runtime computes them within a plan."""
    m = Model(18, 31)
    x, ids, flag = m.input("x", ["n", 6]), m.input("ids", ["n", 6], "i64"), m.input("flag", [], "i64")
    y = m.op("Relu", x)
    a = m.op("Celu", y, alpha=2.0)
    b = m.op("Tan", m.op("Mul", m.op("MatMul", a, m.random(6, 5)), m.const(np.float32(0.1))))
    m.give(m.op("Add", b, m.random(5)), "y")
    masked = m.op("BitwiseAnd", ids, m.const(np.int64(3)))
    m.give(m.op("Where", m.op("Equal", masked, m.const(np.int64(2))), a, x), "chosen")
    m.give(masked, "masked", "i64")
    info = helper.make_tensor_value_info("r", T.FLOAT, None)
    inner = lambda kind, name: helper.make_graph([helper.make_node(kind, [a], ["r"])], name, [], [info])
    one = m.op("Equal", flag, m.const(np.int64(1)))
    m.give(m.op("If", one, then_branch=inner("Neg", "then"), else_branch=inner("Exp", "else")), "branch")
    # Only ONNX Runtime knows how many there are, and so it computes what follows.
    places = m.op("NonZero", y)
    m.give(places, "places", "i64")
    m.give(m.op("ReduceSum", m.op("Cast", places, to=T.FLOAT), m.const(np.array([1])), keepdims=0), "sum")
    call = lambda n, flag: dict(x=floats(41, n, 6), ids=np.arange(6 * n).reshape(n, 6) % 7, flag=np.array(flag))
    m.save("segments", [call(2, 1), call(3, 0)], infer=True)


def runtimes_own():
    """Operators of ONNX Runtime's own that have no native form: attention over a cache, and mixtures of experts."""
    m = Model(18, 36)
    ms = dict(domain="com.microsoft")
    q, k, v = (m.input(name, ["n", "t", size]) for name, size in (("q", 32), ("k", 16), ("v", 16)))
    past = [m.input(name, ["n", 2, "p", 8]) for name in ("past_k", "past_v")]
    lengths, total = m.input("lengths", ["n"], "i64"), m.input("total", [1], "i64")
    narrow = lambda value: m.op("Cast", value, to=T.INT32)
    total = m.op("Squeeze", narrow(total), m.const(np.array([0])))
    attended = m.op("GroupQueryAttention", m.op("Tanh", q), k, v, *past, narrow(lengths), total,
                    outputs=3, num_heads=4, kv_num_heads=2, **ms)
    for name, value in zip(("attended", "next_k", "next_v"), attended):
        m.give(value, name)
    x = m.input("x", ["n", 16])
    router = m.op("MatMul", x, m.random(16, 4))
    mixed = m.op("MoE", x, router, m.random(4, 8, 16), "", m.random(4, 16, 8), "", k=2, activation_type="relu",
                 normalize_routing_weights=1, **ms)
    m.give(mixed, "mixed")
    call = lambda n, t, p: dict(q=floats(51, n, t, 32), k=floats(52, n, t, 16), v=floats(53, n, t, 16),
                                past_k=floats(54, n, 2, p, 8), past_v=floats(55, n, 2, p, 8), x=floats(56, n, 16),
                                lengths=np.full(n, p + t - 1), total=np.array([p + t]))
    m.save("runtimes_own", [call(2, 1, 3), call(1, 1, 5)])


def attention():
    """Attention written out, as exporters do, in nodes."""
    m = Model(17, 61)
    x, y = m.input("x", ["n", "t", 24]), m.input("y", ["n", "s", 24])
    mask, seen = m.input("mask", ["n", "s"]), m.input("seen", ["n", "s"], "i64")
    heads, size = 3, 8
    dims = m.const(np.array([0, 0, heads, size]))
    part = lambda v: m.op("Reshape", m.op("Add", m.op("MatMul", v, m.random(24, 24, scale=0.4)), m.random(24)), dims)
    turned = lambda v, *perm: m.op("Transpose", part(v), perm=perm)
    queries, values = lambda: turned(x, 0, 2, 1, 3), lambda v=y: turned(v, 0, 2, 1, 3)
    keys = lambda v=y: turned(v, 0, 2, 3, 1)
    number = lambda v: m.const(np.float32(v))
    axes = m.const(np.array([1, 2]))
    added = m.op("Unsqueeze", mask, axes)
    hidden = m.op("Unsqueeze", m.op("Equal", seen, m.const(np.int64(0))), axes)

    def rows(weights, v, name):
        mixed = m.op("Transpose", m.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        m.give(m.op("MatMul", m.op("Reshape", mixed, m.const(np.array([0, 0, 24]))), m.random(24, 5)), name)

    softmax = lambda v: m.op("Softmax", v, axis=-1)
    scores = lambda: m.op("MatMul", queries(), keys())
    rows(softmax(scores()), values(), "bare")
    rows(softmax(m.op("Div", scores(), number(8**0.5))), values(), "divided")
    rows(softmax(m.op("Add", m.op("Mul", scores(), number(8**-0.5)), added)), values(), "masked")
    rows(softmax(m.op("Add", added, m.op("Mul", number(0.3), scores()))), values(), "mask_first")
    root = number(8**-0.25)
    both = m.op("MatMul", m.op("Mul", queries(), root), m.op("Mul", keys(), root))
    rows(softmax(both), values(), "both_scaled")
    for name, fill in (("filled", -3.4e38), ("filled_minus", -np.inf)):
        rows(softmax(m.op("Where", hidden, number(fill), scores())), values(), name)
    weights = softmax(m.op("Where", hidden, number(-np.inf), scores()))
    rows(m.op("Where", m.op("IsNaN", weights), number(0), weights), values(), "numbers")
    own = m.op("MatMul", queries(), keys(x))
    lower = m.const(np.triu(np.full((32, 32), -np.inf, np.float32), 1))
    count = m.op("Shape", x, start=1, end=2)
    ends, starts = m.op("Concat", count, count, axis=0), m.const(np.array([0, 0]))
    causal = m.op("Slice", lower, starts, ends, m.const(np.array([0, 1])))
    rows(softmax(m.op("Add", own, causal)), values(x), "causal")
    count = lambda v: m.op("Shape", v, start=1, end=2)
    flat = lambda v: m.op("Concat", m.const(np.array([-1])), count(v), m.const(np.array([size])), axis=0)
    three = lambda v: m.op("Reshape", turned(v, 0, 2, 1, 3), flat(v))
    q, k, v = three(x), three(y), three(y)
    weights = softmax(m.op("Mul", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), number(0.35)))
    m.give(m.op("MatMul", weights, v), "three_axes")
    weights = softmax(m.op("Einsum", q, k, equation="btc,bsc->bts"))
    m.give(m.op("Einsum", weights, v, equation="bts,bsc->btc"), "einsum")
    columns = lambda v: m.op("Reshape", m.op("Transpose", v, perm=[0, 2, 1]), m.op("Concat", m.const(np.array([-1, size])), count(v), axis=0))
    scaled = lambda v: columns(m.op("Mul", m.op("MatMul", v, m.random(24, 24, scale=0.4)), root))
    weights = softmax(m.op("Einsum", scaled(x), scaled(y), equation="bct,bcs->bts"))
    mixed = m.op("Einsum", weights, columns(y), equation="bts,bcs->bct")
    m.give(m.op("Reshape", mixed, m.op("Concat", m.const(np.array([-1, 24])), count(x), axis=0)), "columns")
    weights = softmax(m.op("MatMul", x, m.op("Transpose", y, perm=[0, 2, 1])))
    m.give(m.op("MatMul", weights, y), "one_head")
    call = lambda n, t, s: dict(x=floats(62, n, t, 24), y=floats(63, n, s, 24), mask=-np.abs(floats(64, n, s, scale=4)),
                                seen=(np.arange(n * s).reshape(n, s) % 3 > 0).astype(np.int64))
    m.save("attention", [call(2, 5, 7), call(1, 1, 4)])


def not_attention():
    """What looks like attention and is not."""
    m = Model(17, 65)
    q, k, v = m.input("q", ["n", 2, "t", 8]), m.input("k", ["n", 2, "t", 8]), m.input("v", ["n", 2, "t", 8])
    scale, row = m.input("scale", []), m.input("row", ["t"])
    number = lambda v: m.const(np.float32(v))
    scores = lambda: m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2]))
    softmax = lambda v, axis=-1: m.op("Softmax", v, axis=axis)
    mixed = lambda w, name: m.give(m.op("MatMul", w, v), name)
    mixed(softmax(scores(), 2), "other_axis")
    shared = softmax(scores())
    m.give(shared, "weights")
    mixed(shared, "weights_used")
    read = scores()
    m.give(read, "scores")
    mixed(softmax(read), "scores_used")
    mixed(softmax(m.op("Mul", scores(), scale)), "scale_of_call")
    mixed(softmax(m.op("Mul", scores(), row)), "scale_by_key")
    mixed(softmax(m.op("Mul", m.op("Add", scores(), row), number(0.5))), "scaled_after")
    mixed(softmax(m.op("Where", m.op("Less", row, number(0)), number(-2.0), scores())), "filled_little")
    mixed(softmax(m.op("Tanh", scores())), "capped")
    mixed(m.op("LogSoftmax", scores(), axis=-1), "logarithm")
    mixed(m.op("Mul", softmax(scores()), number(0.9)), "weights_scaled")
    mixed(m.op("Relu", scores()), "no_softmax")
    call = lambda n, t: dict(q=floats(66, n, 2, t, 8), k=floats(67, n, 2, t, 8), v=floats(68, n, 2, t, 8),
                             scale=np.array(0.4, np.float32), row=floats(69, t))
    m.save("not_attention", [call(2, 5), call(1, 3)])


def written_out():
    """Norms and activations written out."""
    m = Model(17, 71)
    x, image = m.input("x", ["n", "t", 24]), m.input("image", ["n", 8, "h", "w"])
    number = lambda v: m.const(np.float32(v))
    mean = lambda v, axis=-1: m.op("ReduceMean", v, axes=[axis])
    square = lambda v: m.op("Pow", v, number(2))
    root = lambda v, eps=1e-5: m.op("Sqrt", m.op("Add", v, number(eps)))

    d = m.op("Sub", x, mean(x))
    y = m.op("Div", d, root(mean(square(d))))
    m.give(m.op("Add", m.op("Mul", y, m.random(24)), m.random(24)), "layer")
    average = mean(x)
    a, b = m.op("Sub", x, average), m.op("Sub", x, average)
    y = m.op("Div", a, root(mean(m.op("Mul", b, b)), 1e-6))
    m.give(m.op("Mul", m.random(1, 1, 24), y), "layer_twice")
    d = m.op("Sub", x, mean(x))
    m.give(m.op("Mul", d, m.op("Reciprocal", root(mean(square(d))))), "layer_bare")
    pixels = m.op("Conv", image, m.random(8, 8, 1, 1, scale=0.4))
    d = m.op("Sub", pixels, mean(pixels, 1))
    y = m.op("Div", d, root(mean(square(d), 1)))
    y = m.op("Add", m.op("Mul", y, m.random(8, 1, 1)), m.random(8, 1, 1))
    m.give(m.op("Conv", y, m.random(4, 8, 1, 1)), "layer_channels")

    m.give(m.op("Mul", m.random(24), m.op("Mul", x, m.op("Reciprocal", root(mean(square(x)))))), "rms")
    y = m.op("Mul", x, m.op("Div", number(1), root(mean(m.op("Mul", x, x)), 1e-6)))
    m.give(m.op("Mul", y, m.random(24)), "rms_divided")
    y = m.op("Div", x, root(mean(square(x))))
    m.give(m.op("Mul", y, m.random(24)), "rms_root")
    y = m.op("Mul", x, m.op("Pow", m.op("Add", mean(square(x)), number(1e-5)), number(-0.5)))
    m.give(m.op("Mul", y, m.random(24)), "rms_power")

    one, half = number(1), number(0.5)
    erf = lambda v: m.op("Add", m.op("Erf", m.op("Div", v, number(2**0.5))), one)
    m.give(m.op("Mul", m.op("Mul", x, erf(x)), half), "gelu")
    m.give(m.op("Mul", m.op("Mul", half, x), erf(x)), "gelu_half_first")
    erf = m.op("Erf", m.op("Mul", x, number(0.5**0.5)))
    m.give(m.op("Mul", x, m.op("Add", m.op("Mul", erf, half), half)), "gelu_inside")
    cube = m.op("Mul", number(0.044715), m.op("Pow", x, number(3)))
    tanh = m.op("Tanh", m.op("Mul", m.op("Add", x, cube), number((2 / np.pi) ** 0.5)))
    m.give(m.op("Mul", m.op("Mul", half, x), m.op("Add", tanh, one)), "gelu_tanh")
    m.give(m.op("Mul", x, m.op("Sigmoid", x)), "silu")
    m.give(m.op("Div", x, m.op("Add", one, m.op("Exp", m.op("Neg", x)))), "silu_divided")

    rows = m.op("Reshape", image, m.const(np.array([0, 4, -1])))
    y = m.op("InstanceNormalization", rows, m.const(np.ones(4, np.float32)), m.const(np.zeros(4, np.float32)))
    y = m.op("Reshape", y, m.op("Shape", image))
    y = m.op("Add", m.op("Mul", y, m.random(8, 1, 1)), m.random(8, 1, 1))
    m.give(m.op("Mul", y, m.op("Sigmoid", y)), "group")
    call = lambda n, t, h, w: dict(x=floats(72, n, t, 24), image=floats(73, n, 8, h, w))
    m.save("written_out", [call(2, 5, 3, 4), call(1, 3, 5, 2)])


def not_norms():
    """What looks like norms and is not."""
    m = Model(17, 75)
    x, image, eps = m.input("x", ["n", "t", 24]), m.input("image", ["n", 8, 3, 4]), m.input("eps", [1])
    number = lambda v: m.const(np.float32(v))
    mean = lambda v, *axes: m.op("ReduceMean", v, axes=list(axes) or [-1])
    square = lambda v: m.op("Pow", v, number(2))
    root = lambda v, eps=1e-5: m.op("Sqrt", m.op("Add", v, number(eps)))
    distance = lambda *axes: m.op("Sub", x, mean(x, *axes))

    d = distance(1)
    m.give(m.op("Div", d, root(mean(square(d), 1))), "other_axis")
    d = distance(1, 2)
    m.give(m.op("Div", d, root(mean(square(d), 1, 2))), "two_axes")
    d = distance()
    m.give(m.op("Div", d, m.op("Sqrt", m.op("Add", mean(square(d)), eps))), "eps_of_call")
    d = distance()
    m.give(m.op("Div", d, root(mean(m.op("Pow", d, number(3))), 50.0)), "cubed")
    d = distance()
    m.give(m.op("Div", d, m.op("Add", m.op("Sqrt", mean(square(d))), number(1e-5))), "eps_outside")
    d = distance()
    m.give(m.op("Div", x, root(mean(square(d)))), "not_moved")
    d = distance()
    variance = mean(square(d))
    m.give(variance, "variance")
    m.give(m.op("Div", d, root(variance)), "variance_used")
    d = distance()
    m.give(m.op("Div", root(mean(square(d))), m.op("Add", m.op("Abs", d), number(1))), "upside_down")
    m.give(m.op("Mul", x, m.op("Sigmoid", m.op("Mul", x, number(1.2)))), "not_silu")
    m.give(m.op("Mul", x, m.op("Sigmoid", d)), "gated")
    m.give(m.op("Mul", x, m.op("Add", m.op("Erf", x), number(1))), "not_gelu")
    rows = m.op("Reshape", image, m.const(np.array([0, 4, -1])))
    ones, zeros = m.const(np.ones(4, np.float32)), m.const(np.zeros(4, np.float32))
    y = m.op("InstanceNormalization", rows, ones, zeros)
    m.give(y, "rows")
    m.give(m.op("Reshape", y, m.op("Shape", image)), "rows_used")
    y = m.op("InstanceNormalization", rows, ones, zeros)
    m.give(m.op("Reshape", y, m.const(np.array([0, 4, 8, 3]))), "other_shape")
    call = lambda n, t: dict(x=floats(76, n, t, 24), image=floats(77, n, 8, 3, 4), eps=np.array([0.1], np.float32))
    m.save("not_norms", [call(2, 5), call(1, 3)])


def exported():
    """A transformer's block and a UNet's attention as PyTorch writes them out."""
    import torch
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = nn.LayerNorm(16), [F.gelu, lambda v: F.gelu(v, approximate="tanh"), F.silu]
            self.parts = nn.ModuleList(nn.ModuleList(nn.Linear(16, 16) for _ in range(4)) for _ in range(5))
            heads = dict(query_dim=16, heads=2, dim_head=8, norm_num_groups=4, residual_connection=True)
            self.images = nn.ModuleList(Attention(processor=p(), **heads) for p in (AttnProcessor, AttnProcessor2_0))
            self.group = nn.GroupNorm(4, 16)

        def attend(self, i, x, how):
            q, k, v, out = self.parts[i]
            n, t, _ = x.shape
            heads = lambda v: v.view(n, t, 2, 8).transpose(1, 2)
            y = how(heads(q(x)), heads(k(x)), heads(v(x)))
            return out(y.transpose(1, 2).reshape(n, t, 16))

        def forward(self, x, mask, image):
            x = self.norm(x)
            wide = mask[:, None, None, :]
            eager = lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + wide, -1) @ v
            filled = lambda q, k, v: torch.softmax((q @ k.transpose(-1, -2)).masked_fill(wide < -1, -torch.inf), -1) @ v
            fast = lambda **more: lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **more)
            hows = [eager, filled, fast(), fast(attn_mask=wide > -1), fast(is_causal=True)]
            tokens = [self.attend(i, x, how) for i, how in enumerate(hows)]
            root = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return *tokens, root, *(f(x) for f in self.act), *(a(image) for a in self.images), F.silu(self.group(image))

    torch.manual_seed(81)
    call = lambda n, t, h, w: dict(x=floats(82, n, t, 16), mask=np.minimum(floats(83, n, t), 0) * (np.arange(t) > 0).astype(np.float32),
                                   image=floats(84, n, 16, h, w))
    calls = [call(2, 5, 3, 4), call(1, 3, 4, 2)]
    block, path = Block().eval(), OUT / "exported.onnx"
    names = ["eager", "filled", "fast", "fast_masked", "fast_causal", "rms", "gelu", "gelu_tanh", "silu", "of_image", "of_image_fast", "group"]
    sizes = dict(x={0: "n", 1: "t"}, mask={0: "n", 1: "t"}, image={0: "n", 2: "h", 3: "w"})
    torch.onnx.export(block, tuple(map(torch.tensor, calls[0].values())), str(path), dynamo=False, opset_version=14,
                      input_names=list(sizes), output_names=names, dynamic_axes=sizes)
    tensors = {}
    for number, given in enumerate(calls):
        with torch.no_grad():
            found = block(*map(torch.tensor, given.values()))
        tensors.update({f"{number}.in.{name}": value for name, value in given.items()})
        tensors.update({f"{number}.out.{name}": value.numpy() for name, value in zip(names, found)})
    np.savez_compressed(OUT / "exported.npz", **tensors)


def long_sums():
    """Running sums along axes that are cut into parts."""
    m = Model(18, 91)
    x, y = m.input("x", ["n", 600]), m.input("y", [700, "n"])
    for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
        m.give(m.op("CumSum", x, m.const(np.int64(1)), exclusive=exclusive, reverse=reverse), f"sum_{exclusive}{reverse}")
    m.give(m.op("CumSum", y, m.const(np.int64(0))), "sum_first")
    m.save("long_sums", [dict(x=floats(92, n, 600), y=floats(93, 700, n)) for n in (2, 1)])


def only_runtime():
    """Forms of operators that only ONNX Runtime has."""
    m = Model(18, 94)
    x, image, cube = m.input("x", ["n", 6]), m.input("image", ["n", 2, 4, 5]), m.input("cube", ["n", 2, 3, 4, 5])
    at, count = m.input("at", ["k", 1], "i64"), m.input("count", [], "i64")
    x = m.op("Tanh", x)
    values, places = m.op("TopK", x, m.const(np.array([3])), outputs=2)
    m.give(values, "largest")
    m.give(places, "places", "i64")
    m.give(m.op("ScatterND", x, at, m.op("Neg", m.op("GatherND", x, at))), "scattered")
    m.give(m.op("Resize", image, "", m.const(np.array([1, 1, 2, 2], np.float32)), mode="cubic"), "cubic")
    m.give(m.op("Conv", cube, m.random(3, 2, 2, 2, 2), m.random(3), pads=[1, 0, 0, 0, 1, 1]), "conv_3d")
    info = lambda name, kind=T.FLOAT, shape=None: helper.make_tensor_value_info(name, kind, shape)
    step = [helper.make_node("Sin", ["state"], ["next"]), helper.make_node("Identity", ["next"], ["kept"]),
            helper.make_node("Identity", ["going"], ["go_on"])]
    body = helper.make_graph(step, "body", [info("i", T.INT64, []), info("going", T.BOOL, []), info("state", shape=["n", 6])],
                             [info("go_on", T.BOOL, []), info("next", shape=["n", 6]), info("kept", shape=["n", 6])])
    last, kept = m.op("Loop", count, m.const(np.array(True)), x, body=body, outputs=2)
    m.give(last, "looped")
    m.give(kept, "kept")
    step = [helper.make_node("Add", ["sum", "row"], ["next"]), helper.make_node("Identity", ["next"], ["kept"])]
    body = helper.make_graph(step, "body", [info("sum", shape=[6]), info("row", shape=[6])],
                             [info("next", shape=[6]), info("kept", shape=[6])])
    zero = m.const(np.zeros(6, np.float32))
    m.give(m.op("Scan", zero, x, body=body, num_scan_inputs=1, outputs=2)[1], "scanned")
    ms = dict(domain="com.microsoft")
    wide = m.op("MatMul", x, m.random(6, 32))
    bits = lambda *shape: m.const(m.rng.integers(0, 256, shape).astype(np.uint8))
    scales = lambda *shape: m.const(np.abs(m.rng.standard_normal(shape)).astype(np.float32) / 64)
    m.give(m.op("QMoE", wide, m.op("MatMul", x, m.random(6, 4)), bits(4, 16, 16), scales(4, 16), "", bits(4, 32, 8), scales(4, 32), "",
                k=2, activation_type="silu", normalize_routing_weights=1, expert_weight_bits=4, **ms), "mixed")
    call = lambda n, rows, count: dict(x=floats(95, n, 6), image=floats(96, n, 2, 4, 5), cube=floats(97, n, 2, 3, 4, 5),
                                       at=np.array(rows)[:, None], count=np.array(count))
    m.save("only_runtime", [call(3, [2, 0], 3), call(2, [1], 2)], infer=True)


def wide_integers():
    """Integers of more than 24 bits and of more than 32, where they are only moved or become small again."""
    m = Model(18, 101)
    ids, x = m.input("ids", ["n", 3], "i64"), m.input("x", ["n", 5])
    m.give(m.op("Add", ids, m.const(np.array([2**30 + 12345, -2**31 + 100, 2**24 + 1]))), "far", "i64")
    ends = m.op("Concat", m.op("Unsqueeze", m.const(np.int64(2**63 - 1)), m.const(np.array([0]))), m.const(np.array([3])), axis=0)
    m.give(m.op("Slice", x, m.const(np.array([1, 0])), ends, m.const(np.array([0, 1]))), "sliced")
    square = m.op("Mul", m.const(np.array([[70000, 3]])), m.const(np.array([[70000], [2]])))
    m.give(m.op("Sub", m.op("Div", square, m.const(np.array([[7000]]))), m.const(np.array([[1]]))), "small", "i64")
    m.save("wide_integers", [dict(ids=np.arange(3 * n).reshape(n, 3), x=floats(102, n, 5)) for n in (2, 3)])


def taken_names():
    """Values that are called as a segment's own inputs and outputs are."""
    m = Model(18, 98)
    m.input("in1", ["n", 4])
    m.input("out0", ["n", 4])
    node = lambda kind, inputs, outputs, **more: m.nodes.append(helper.make_node(kind, inputs, outputs, f"make {outputs[0]}", **more))
    node("Relu", ["in1"], ["out1"])
    node("Celu", ["out1"], ["in0"], alpha=2.0)
    node("Celu", ["out0"], ["in2"], alpha=0.5)
    node("Tan", ["in2"], ["in2_"])
    info = lambda name: helper.make_tensor_value_info(name, T.FLOAT, ["n", 4])
    inner = lambda kind: helper.make_graph([helper.make_node(kind, ["in0"], ["in3"])], kind, [], [info("in3")])
    node("ReduceSum", ["out0"], ["sum"], keepdims=0)
    m.constants.append(numpy_helper.from_array(np.float32(0), "out2"))
    node("Less", ["sum", "out2"], ["less"])
    node("If", ["less"], ["chosen"], then_branch=inner("Neg"), else_branch=inner("Exp"))
    node("Add", ["chosen", "in2_"], ["out3"])
    m.outputs.append(info("out3"))
    m.outputs.append(info("in2"))
    m.save("taken_names", [{"in1": floats(99, n, 4), "out0": floats(100, n, 4)} for n in (2, 3)], infer=True)


def edges():
    """Where windows, cuts and parts end."""
    m = Model(18, 120)
    x = m.input("x", ["n", 3, 6, 7])
    odd = m.input("odd", ["n", 3, "h", "w"])
    small = m.input("small", ["n", 3, 2, 2])
    pool = lambda kind, of, name, **more: m.give(m.op(kind, of, ceil_mode=1, **more), name)
    # A window that would begin behind the image, in padding or not, is none.
    for kind, short in [("MaxPool", "max"), ("AveragePool", "mean")]:
        pool(kind, x, f"{short}_beyond", kernel_shape=[2, 2], strides=[3, 3])
        pool(kind, x, f"{short}_padded", kernel_shape=[2, 3], strides=[2, 3], pads=[1, 1, 1, 1])
        pool(kind, x, f"{short}_within", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0])
        pool(kind, odd, f"{short}_open", kernel_shape=[3, 3], strides=[2, 2])
        pool(kind, small, f"{short}_small", kernel_shape=[3, 3], strides=[2, 2])
    w = m.random(3, 2, 3, 3)
    for name, more in [("notset", {}), ("lower", dict(auto_pad="SAME_LOWER")), ("upper", dict(auto_pad="SAME_UPPER"))]:
        m.give(m.op("ConvTranspose", x, w, strides=[2, 2], output_shape=[12, 13], **more), f"shape_{name}")
    part = lambda start, end, step: m.op("Slice", x, *[m.const(np.array([v])) for v in (start, end, 3, step)])
    m.give(part(-9, -99, -3), "before")
    m.give(part(-7, -99, -2), "first")
    m.give(part(99, 1, -3), "behind")
    m.give(part(4, 4, -1), "nothing_back")
    call = lambda n, h, w: dict(x=floats(121, n, 3, 6, 7), odd=floats(122, n, 3, h, w), small=floats(123, n, 3, 2, 2))
    m.save("edges", [call(1, 6, 7), call(2, 5, 8)])


def open_sizes():
    """Sizes of different names that meet: either may be 1 in a call, also where only the size of the result is used."""
    m = Model(18, 130)
    x, y, z = m.input("x", ["n", 3]), m.input("y", ["m", 3]), m.input("z", ["m", 2, 3])
    m.give(m.op("Expand", x, m.op("Shape", y)), "expanded")
    total = m.op("Add", x, y)
    m.give(m.op("Relu", total), "sum")
    m.give(m.op("Shape", total), "shape", "i64")
    unused = m.op("Mul", m.op("Add", y, m.random(3)), m.op("Neg", x))
    m.give(m.op("Size", unused), "size", "i64")
    m.give(m.op("ConstantOfShape", m.op("Shape", unused)), "zeros")
    m.give(m.op("Where", m.op("Greater", x, y), m.op("Tanh", y), x), "chosen")
    three = m.op("Unsqueeze", x, m.const(np.array([2])))
    m.give(m.op("MatMul", z, three), "product")
    m.give(m.op("Reshape", total, m.const(np.array([3, -1]))), "reshaped")
    m.save("open_sizes", [dict(x=floats(131, n, 3), y=floats(132, k, 3), z=floats(133, k, 2, 3)) for n, k in ((2, 2), (1, 4), (4, 1))])


def corners():
    """Floats of 16 bits, powers of integers, indices from the end, states that are constant, an open depth of a product."""
    m = Model(18, 134)
    h, a = m.input("h", ["k"]), m.input("a", ["k"], "i64")
    for name, to in [("f16", T.FLOAT16), ("bf16", T.BFLOAT16)]:
        m.give(m.op("Cast", m.op("Cast", h, to=to), to=T.FLOAT), name)
        m.give(m.op("Cast", m.op("Cast", a, to=to), to=T.FLOAT), f"{name}_of_integers")
    # Below the smallest normal number.
    small = m.op("Cast", m.op("Cast", m.op("Mul", h, m.const(np.float32(2**-19))), to=T.FLOAT16), to=T.FLOAT)
    m.give(m.op("Mul", small, m.const(np.float32(2**19))), "f16_small")
    for n in (1, 2, 3, 5):
        m.give(m.op("Pow", a, m.const(np.int64(n))), f"power_{n}", "i64")
    m.give(m.op("Cast", m.op("Relu", m.op("Cast", a, to=T.INT32)), to=T.INT64), "relu", "i64")
    table = m.random(5, 3)
    x = m.input("x", ["n", "depth"])
    m.give(m.op("Add", m.op("Gather", table, m.const(np.array([-1]))), m.op("MatMul", x, m.random(4, 3))), "last")
    m.give(m.op("Gather", table, m.op("Sub", m.const(np.array([[-1], [-4]])), m.const(np.array([0, 1])))), "from_end")
    behind = m.op("Sub", m.op("Mod", a, m.const(np.array([5]))), m.const(np.array([5])))
    m.give(m.op("Gather", table, behind), "from_end_of_call")
    m.give(m.op("Slice", x, m.const(np.array([-3])), m.const(np.array([2**40])), m.const(np.array([0]))), "tail")
    m.give(m.op("Slice", h, m.const(np.array([0])), m.const(np.array([-3])), m.const(np.array([0]))), "head")
    m.give(m.op("Gemm", x, m.random(3, 4), m.random(3), transB=1), "gemm")
    images = m.input("images", ["k", "channels", 4, 5])
    m.give(m.op("ConvTranspose", m.op("Conv", images, m.random(4, 3, 2, 2)), m.random(4, 2, 2, 2)), "convolved")
    fixed = m.random(1, 3, 4, 5)
    m.give(m.op("Add", m.op("MaxPool", m.op("Conv", fixed, m.random(4, 3, 2, 2)), kernel_shape=[2, 2]), m.op("Gather", h, m.const(np.int64(0)))), "fixed_image")
    steps = m.input("steps", [4, 2, 5])
    for after in (0, 1):
        weights = [m.random(2, 12, 5), m.random(2, 12, 4), m.random(2, 24)]
        out, last = m.op("GRU", steps, *weights, "", m.random(2, 2, 4), hidden_size=4, direction="bidirectional",
                         linear_before_reset=after, outputs=2)
        m.give(out, f"gru_{after}")
        m.give(last, f"gru_last_{after}")
    values = np.array([1.0001, -3.14159, 0.7, 0.015625, 0.02, 0.0157, 1e-40, 1 + 2**-11, -0.0, 1 + 3 * 2**-11, 2.7, 1 / 3], np.float32)
    call = lambda k, n: dict(h=values[:k], a=np.array([-3, 2, 41, 0, 7, 1, -1, 5, 9, -12, 13, 20])[:k], x=floats(135, n, 4),
                             steps=floats(136, 4, 2, 5), images=floats(142, k, 3, 4, 5))
    m.save("corners", [call(12, 2), call(5, 5)])


def outputs():
    """An input and a constant that are outputs, outputs of one value, and a node that no output needs."""
    m = Model(18, 137)
    x, ids = m.input("x", ["n", 3]), m.input("ids", ["n"], "i64")
    m.op("Tan", x)
    m.give(x, "copied")
    m.give(m.op("Relu", x), "relu")
    info = lambda name, kind=T.FLOAT: helper.make_tensor_value_info(name, kind, None)
    m.outputs += [info(x), info(ids, T.INT64), info(m.random(2, 2)), info(m.outputs[0].name)]
    m.save("outputs", [dict(x=floats(138, n, 3), ids=np.arange(n)) for n in (2, 1)])


def integer_forms():
    """Operators that have native forms of floats alone, over integers."""
    m = Model(18, 139)
    a = m.op("Cast", m.input("a", ["n", 1, 4, 6], "i64"), to=T.INT32)
    wide = lambda value: m.op("Cast", value, to=T.INT64)
    m.give(wide(m.op("ReduceMean", a, m.const(np.array([1, 2])))), "mean", "i64")
    m.give(wide(m.op("MaxPool", m.op("Cast", a, to=T.INT8), kernel_shape=[2, 3])), "pooled", "i64")
    m.give(wide(m.op("Pow", a, m.op("Abs", a))), "power", "i64")
    m.give(wide(m.op("Add", a, m.op("Neg", a))), "native", "i64")
    for exponent in (0, 10):
        m.give(wide(m.op("Pow", a, m.const(np.int32(exponent)))), f"power_{exponent}", "i64")
    m.save("integer_forms", [dict(a=np.arange(24 * n).reshape(n, 1, 4, 6) % 9 - 4) for n in (1, 2)], infer=True)


def said_sizes():
    """Sizes that only the model says, by which ONNX Runtime chooses kernels with other bits."""
    m = Model(18, 140)
    x, shape = m.input("x", ["n", 4, 150]), m.input("shape", ["r"], "i64")
    flat = m.op("Reshape", x, shape)
    product = m.op("MatMul", flat, m.random(600, 33))
    m.give(m.op("Relu", m.op("Add", product, m.random(33))))
    said = [helper.make_tensor_value_info(name, T.FLOAT, ["rows", size]) for name, size in ((flat, 600), (product, 33))]
    m.save("said_sizes", [dict(x=floats(141, n, 4, 150), shape=np.array([-1, 600])) for n in (7, 2)], said=said)


def alone():
    """Constants whose rank the result has, norms over no axes, integers that wrap at 8 bits, powers of sizes."""
    m = Model(20, 142)
    x, a = m.input("x", ["n"]), m.input("a", ["n"], "i64")
    positive = m.op("Greater", x, m.const(0.0))
    m.give(m.op("Where", positive, m.const(np.array([[2.0]])), m.const(np.array([[3.0]]))), "chosen")
    for kind in ["ReduceL1", "ReduceL2", "ReduceSumSquare"]:
        m.give(m.op(kind, x, noop_with_empty_axes=1), kind)
    for name, of in [("u8", T.UINT8), ("i8", T.INT8)]:
        narrow, other = m.op("Cast", a, to=of), m.op("Cast", m.op("Abs", a), to=of)
        for kind in ["Add", "Sub", "Mul"]:
            m.give(m.op("Cast", m.op(kind, narrow, other), to=T.INT64), f"{kind}_{name}", "i64")
    m.give(m.op("Pow", m.op("Shape", x), m.const(np.array([2]))), "square", "i64")
    m.save("alone", [dict(x=floats(143, n), a=np.arange(n) * 61 - 120) for n in (5, 1)], infer=True)


def casts():
    """Casts to integers without a sign and to the types of others, quantisation to a type that only an attribute says."""
    m = Model(21, 150)
    x, a = m.input("x", ["n", 4]), m.input("a", ["n", 4], "i64")
    scaled = m.op("Abs", m.op("Mul", x, m.const(np.float32(3.0))))
    for name, of in [("u32", T.UINT32), ("u64", T.UINT64)]:
        m.give(m.op("Cast", m.op("Cast", scaled, to=of), to=T.FLOAT), name)
    for name, like in [("truth", np.array(True)), ("integers", np.array([7])), ("floats", np.float32(1))]:
        for given, value in [("x", x), ("a", a)]:
            found = m.op("CastLike", value, m.const(like))
            m.give(m.op("Cast", found, to=T.FLOAT), f"{name}_of_{given}")
    m.give(m.op("CastLike", a, x), "like_input")
    step = m.const(np.float32(0.01))
    for name, of in [("signed", T.INT8), ("unsigned", T.UINT8)]:
        m.give(m.op("Cast", m.op("QuantizeLinear", x, step, output_dtype=of), to=T.FLOAT), name)
    m.save("casts", [dict(x=floats(151, n, 4), a=np.arange(4 * n).reshape(n, 4) - 5) for n in (3, 1)])


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for case in [elementwise, integers, layout, gather, products, conv, images, norms, reductions, recurrent,
                 quantised, contrib, every_op, branches, ordered, gated, quantised_linear, rotary, segments,
                 runtimes_own, attention, not_attention, written_out, not_norms, exported,
                 long_sums, only_runtime, wide_integers, taken_names, edges,
                 open_sizes, corners, outputs, integer_forms, said_sizes, alone, casts]:
        case()
