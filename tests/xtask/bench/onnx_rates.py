"""ONNX Runtime's side of the benchmarks.

    python onnx_rates.py time MODEL THREADS BATCHxTOKENS...
    python onnx_rates.py inputs OUT.npz
    python onnx_rates.py agree MODEL_F32 MODEL INPUTS.npz OUTPUTS.npz

`time` prints the median milliseconds of a call at each shape. `agree` compares Limbeck's outputs and
those of MODEL with MODEL_F32's: the least cosine of a token's vector.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

WARM_UP, LEAST, SECONDS = 5, 7, 0.7
VOCABULARY = 30522


def session(model: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Residual and norm in one op take longer than apart in this version.
    slow = ["SkipLayerNormFusion"]
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=slow
    )


def feed(runner: onnxruntime.InferenceSession, ids: np.ndarray) -> dict[str, np.ndarray]:
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    kinds = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    return {i.name: values[i.name].astype(kinds[i.type]) for i in runner.get_inputs()}


def times(model: str, threads: int, shapes: list[str]) -> dict[str, float]:
    runner, medians = session(model, threads), {}
    for shape in shapes:
        batch, tokens = map(int, shape.split("x"))
        ids = np.tile((np.arange(tokens) * 7919 + 13) % VOCABULARY, (batch, 1))
        inputs = feed(runner, ids)
        for _ in range(WARM_UP):
            runner.run(None, inputs)
        spent, begun = [], time.perf_counter()
        while len(spent) < LEAST or time.perf_counter() - begun < SECONDS:
            start = time.perf_counter()
            runner.run(None, inputs)
            spent.append(time.perf_counter() - start)
        medians[shape] = float(np.median(spent)) * 1e3
    return medians


def agreement(whole: str, other: str, inputs: str, outputs: str) -> dict[str, float]:
    ids = np.load(inputs)["input_ids"]

    def run(model: str) -> np.ndarray:
        runner = session(model, 0)
        return runner.run(None, feed(runner, ids))[0]

    def least(values: np.ndarray) -> float:
        norms = np.linalg.norm(values, axis=-1) * np.linalg.norm(expected, axis=-1)
        return float(((values * expected).sum(axis=-1) / norms).min())

    expected = run(whole)
    return {"limbeck": least(np.load(outputs)["last_hidden_state"]), "onnxruntime": least(run(other))}


def main() -> None:
    task, *rest = sys.argv[1:]
    if task == "inputs":
        ids = np.random.default_rng(0).integers(1000, VOCABULARY, (8, 128))
        np.savez(rest[0], input_ids=ids, attention_mask=np.ones_like(ids))
    elif task == "agree":
        print(json.dumps(agreement(*rest)))
    else:
        print(json.dumps(times(rest[0], int(rest[1]), rest[2:])))


main()
