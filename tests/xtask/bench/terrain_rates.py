"""ONNX Runtime's side of the terrain student's benchmark.

    python terrain_rates.py inputs BATCH OUT.npz
    python terrain_rates.py run MODEL THREADS INPUTS.npz RUNS

`run` prints the median milliseconds of a call, the first left out, and the resident bytes of the process
before the model is read and at most.
"""

import json
import sys
import time

import numpy as np


def resident(field: str) -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


def inputs(batch: int, out: str) -> None:
    noise = np.random.default_rng(0).standard_normal((batch, 1, 128, 128))
    of = lambda value: np.full(batch, value, np.float32)
    np.savez(out, noisy=(noise * 80).astype(np.float32), sigma=of(80), difficulty=of(0.5))


def run(model: str, threads: int, given: str, runs: int) -> dict[str, float]:
    import onnxruntime

    values = dict(np.load(given))
    before = resident("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    spent = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        session.run(None, values)
        spent.append(time.perf_counter() - start)
    return {"median_ms": float(np.median(spent[1:])) * 1e3, "before": before, "peak": resident("VmHWM")}


def main() -> None:
    task, *rest = sys.argv[1:]
    if task == "inputs":
        inputs(int(rest[0]), rest[1])
    else:
        model, threads, given, runs = rest
        print(json.dumps(run(model, int(threads), given, int(runs))))


main()
