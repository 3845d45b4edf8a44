"""MiniLM as ONNX graphs for the peer of the benchmarks.

    python minilm_onnx.py CHECKPOINT OUT

Reads a BERT checkpoint and writes OUT/minilm-{plain,fused}-{f32,int8}.onnx, from `input_ids`, `attention_mask`
and `token_type_ids` `[batch, tokens]` to `last_hidden_state` `[batch, tokens, hidden]`. The plain graph has
the ops and the order of torch.onnx.export, for ONNX Runtime's optimiser to fuse what it can; the fused
one has the ops that onnxruntime.transformers.optimizer replaces these by. Which is faster depends on the
shape and the type. int8 is quantize_dynamic of both, a scale per tensor.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
MICROSOFT = "com.microsoft"


class Graph:
    def __init__(self, checkpoint: Path) -> None:
        self.config = json.loads((checkpoint / "config.json").read_text())
        tensors = load_file(checkpoint / "model.safetensors")
        self.tensors = {name.removeprefix("bert."): values for name, values in tensors.items()}
        self.nodes, self.constants = [], {}

    def tensor(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.tensors[name], dtype=np.float32)

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.tensor(name))

    def integers(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def op(self, kind: str, inputs: list[str], domain: str = "", **attributes) -> str:
        name = f"{kind}_{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def transposed(self, name: str) -> str:
        return self.constant(f"{name}.transposed", self.tensor(name).T)

    def linear(self, x: str, name: str) -> str:
        product = self.op("MatMul", [x, self.transposed(f"{name}.weight")])
        return self.op("Add", [self.weight(f"{name}.bias"), product])

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.op("LayerNormalization", inputs, axis=-1, epsilon=self.config["layer_norm_eps"])

    def write(self, out: Path, result: str) -> None:
        self.nodes.append(helper.make_node("Identity", [result], ["last_hidden_state"], name="result"))
        shape = ["batch", "tokens"]
        values = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "minilm",
            [values(name, self.ids, shape) for name in INPUTS],
            [values("last_hidden_state", TensorProto.FLOAT, [*shape, self.config["hidden_size"]])],
            list(self.constants.values()),
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), out)


class Plain(Graph):
    ids = TensorProto.INT64

    def heads(self, x: str, order: list[int]) -> str:
        heads = self.config["num_attention_heads"]
        split = self.integers(0, 0, heads, self.config["hidden_size"] // heads)
        return self.op("Transpose", [self.op("Reshape", [x, split])], perm=order)

    def embed(self) -> str:
        words, kinds, places = (
            self.weight(f"embeddings.{name}_embeddings.weight") for name in ["word", "token_type", "position"]
        )
        tokens = self.op("Gather", [self.op("Shape", ["input_ids"]), self.integers(1)])
        places = self.op("Slice", [places, self.integers(0), tokens])
        x = self.op("Gather", [words, "input_ids"])
        x = self.op("Add", [x, self.op("Gather", [kinds, "token_type_ids"])])
        return self.norm(self.op("Add", [x, places]), "embeddings.LayerNorm")

    def mask(self) -> str:
        wide = self.op("Unsqueeze", ["attention_mask", self.integers(1, 2)])
        wide = self.op("Cast", [wide], to=TensorProto.FLOAT)
        out = self.op("Sub", [self.number("one", 1.0), wide])
        return self.op("Mul", [out, self.number("lowest", np.finfo(np.float32).min)])

    def attend(self, x: str, base: str, mask: str) -> str:
        q, k, v = (self.linear(x, f"{base}.self.{name}") for name in ["query", "key", "value"])
        scores = self.op("MatMul", [self.heads(q, [0, 2, 1, 3]), self.heads(k, [0, 2, 3, 1])])
        size = self.config["hidden_size"] // self.config["num_attention_heads"]
        scores = self.op("Div", [scores, self.number("scale", math.sqrt(size))])
        shares = self.op("Softmax", [self.op("Add", [scores, mask])], axis=-1)
        mixed = self.op("MatMul", [shares, self.heads(v, [0, 2, 1, 3])])
        mixed = self.op("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", [mixed, self.integers(0, 0, self.config["hidden_size"])])
        return self.norm(self.op("Add", [self.linear(mixed, f"{base}.output.dense"), x]), f"{base}.output.LayerNorm")

    def gelu(self, x: str) -> str:
        share = self.op("Erf", [self.op("Div", [x, self.number("root", math.sqrt(2.0))])])
        share = self.op("Add", [share, self.number("one", 1.0)])
        return self.op("Mul", [self.op("Mul", [x, share]), self.number("half", 0.5)])

    def build(self) -> str:
        x, mask = self.embed(), self.mask()
        for layer in range(self.config["num_hidden_layers"]):
            base = f"encoder.layer.{layer}"
            x = self.attend(x, f"{base}.attention", mask)
            inner = self.gelu(self.linear(x, f"{base}.intermediate.dense"))
            outer = self.linear(inner, f"{base}.output.dense")
            x = self.norm(self.op("Add", [outer, x]), f"{base}.output.LayerNorm")
        return x


class Fused(Graph):
    ids = TensorProto.INT32

    def embed(self) -> tuple[str, str]:
        names = ["word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"]
        tables = [self.weight(f"embeddings.{name}.weight") for name in names]
        inputs = ["input_ids", "token_type_ids", *tables, self.weight("embeddings.LayerNorm.bias"), "attention_mask"]
        node = helper.make_node(
            "EmbedLayerNormalization",
            inputs,
            ["embedded", "lengths"],
            name="embed",
            domain=MICROSOFT,
            epsilon=self.config["layer_norm_eps"],
        )
        self.nodes.append(node)
        return "embedded", "lengths"

    def dense(self, x: str, name: str) -> str:
        """A linear without its bias."""
        return self.op("MatMul", [x, self.transposed(f"{name}.weight")])

    def skip(self, x: str, skip: str, bias: str, name: str) -> str:
        inputs = [x, skip, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), self.weight(bias)]
        epsilon = self.config["layer_norm_eps"]
        return self.op("SkipLayerNormalization", inputs, MICROSOFT, epsilon=epsilon)

    def attend(self, x: str, base: str, lengths: str) -> str:
        parts = [f"{base}.self.{name}" for name in ["query", "key", "value"]]
        weight = np.concatenate([self.tensor(f"{part}.weight").T for part in parts], axis=1)
        bias = np.concatenate([self.tensor(f"{part}.bias") for part in parts])
        weight = self.constant(f"{base}.qkv.weight", weight)
        inputs = [x, weight, self.constant(f"{base}.qkv.bias", bias), lengths]
        heads = self.config["num_attention_heads"]
        mixed = self.op("Attention", inputs, MICROSOFT, num_heads=heads)
        name = f"{base}.output.dense"
        return self.skip(self.dense(mixed, name), x, f"{name}.bias", f"{base}.output.LayerNorm")

    def build(self) -> str:
        x, lengths = self.embed()
        for layer in range(self.config["num_hidden_layers"]):
            base = f"encoder.layer.{layer}"
            x = self.attend(x, f"{base}.attention", lengths)
            inner = self.dense(x, f"{base}.intermediate.dense")
            inner = self.op("BiasGelu", [inner, self.weight(f"{base}.intermediate.dense.bias")], MICROSOFT)
            outer = self.dense(inner, f"{base}.output.dense")
            x = self.skip(outer, x, f"{base}.output.dense.bias", f"{base}.output.LayerNorm")
        return x


def main() -> None:
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name, kind in [("plain", Plain), ("fused", Fused)]:
        graph = kind(checkpoint)
        whole = out / f"minilm-{name}-f32.onnx"
        graph.write(whole, graph.build())
        # The quantiser asks for the types of values that Microsoft's ops make, which it cannot infer.
        quantize_dynamic(
            whole,
            out / f"minilm-{name}-int8.onnx",
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )


main()
