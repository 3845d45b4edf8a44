"""What ONNX Runtime gives for the calls of a golden, as an app would run it.

    python onnx_run.py MODEL.onnx CALLS.npz OUT.npz THREADS
"""

import sys

import numpy as np
import onnxruntime as ort

model, calls, out, threads = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
given = np.load(calls)
names = {name.split(".", 2)[0] for name in given.files}
found = {}
for call in sorted(names, key=int):
    inputs = {i.name: given[f"{call}.in.{i.name}"] for i in session.get_inputs()}
    for output, value in zip(session.get_outputs(), session.run(None, inputs)):
        found[f"{call}.out.{output.name}"] = value.astype(np.int64) if value.dtype == bool else value
np.savez(out, **found)
