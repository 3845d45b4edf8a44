"""Samples that ONNX Runtime and numpy make of students that denoise, in 1, 2 and 4 steps.

Writes diffusion/denoiser.onnx, a small seeded consistency model, diffusion/denoiser.npz with its samples
(`STEPS`, [samples, 1, 8, 8] of the seeds from 7 on), and diffusion/terrain.npz with those of the real student:
`DIFFICULTY.STEPS`, every `STRIDE`-th value. The rule is algorithm 1 of Song et al.: "Consistency Models"
(2023), over the noise levels of diffusers' CMStochasticIterativeScheduler.

    python tests/golden/samples.py [STUDENTS]
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from diffusers import CMStochasticIterativeScheduler
from noise import normals
from onnx import helper
from onnx_models import Model

HERE = Path(__file__).parent
OUT = HERE / "diffusion"
SEED = 7
SAMPLES = 3
STEPS = (1, 2, 4)
STRIDE = 13
LEAST = 0.002
TERRAIN = "terrain/terrain_consistency_unet_difficulty100.onnx"
DIFFICULTIES = (0.0, 0.5, 1.0)


def denoiser():
    """Two convolutions between the scales of a consistency model; `level` shifts what lies between."""
    m = Model(17, seed=5)
    sizes = ["batch", 1, 8, 8]
    noisy, sigma = m.input("noisy", sizes), m.input("sigma", ["batch"])
    level = m.input("level", ["batch"])
    shape = m.const(np.array([-1, 1, 1, 1], np.int64))
    s, k = m.op("Reshape", sigma, shape), m.op("Reshape", level, shape)
    square = m.op("Add", m.op("Mul", s, s), m.const(0.25))
    scale = m.op("Reciprocal", m.op("Sqrt", square))
    h = m.op("Conv", m.op("Mul", noisy, scale), m.random(8, 1, 3, 3), m.random(8), pads=[1, 1, 1, 1])
    h = m.op("Add", h, m.op("Mul", m.op("Log", s), m.random(1, 8, 1, 1, scale=0.3)))
    h = m.op("Add", h, m.op("Mul", k, m.random(1, 8, 1, 1)))
    h = m.op("Mul", h, m.op("Sigmoid", h))
    f = m.op("Conv", h, m.random(1, 8, 3, 3, scale=0.1), m.random(1, scale=0.1), pads=[1, 1, 1, 1])
    above = m.op("Sub", s, m.const(LEAST))
    skip = m.op("Div", m.const(0.25), m.op("Add", m.op("Mul", above, above), m.const(0.25)))
    out = m.op("Mul", m.op("Mul", above, m.const(0.5)), scale)
    x0 = m.op("Add", m.op("Mul", skip, noisy), m.op("Mul", out, f))
    m.give(m.op("Clip", x0, m.const(-1.0), m.const(1.0)), "denoised")
    graph = helper.make_graph(m.nodes, "denoiser", m.inputs, m.outputs, m.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    sampler = {
        "scheduler": {"rule": "consistency", "output": "denoised", "time": "sigma"},
        "steps": list(STEPS),
        "conditions": {"level": {"default": 0.5, "least": 0, "most": 1}},
    }
    helper.set_model_props(model, {"sampler": json.dumps(sampler)})
    return model


def levels(steps):
    scheduler = CMStochasticIterativeScheduler()
    scheduler.set_timesteps(steps)
    return scheduler.sigmas[:-1].tolist()


def samples(session, steps, condition, shape, count=1):
    """[count, *shape]: the seeds from SEED on, each with noise of its own."""
    def noise(draw):
        rows = [normals(SEED + i, draw, int(np.prod(shape))).reshape(shape) for i in range(count)]
        return np.stack(rows).astype(np.float32)

    sigmas = levels(steps)
    x = np.float32(sigmas[0]) * noise(0)
    for at, sigma in enumerate(sigmas):
        given = {"noisy": x, "sigma": np.full(count, sigma, np.float32)}
        given |= {name: np.full(count, value, np.float32) for name, value in condition.items()}
        x = np.clip(session.run(["denoised"], given)[0], -1, 1)
        if at + 1 < steps:
            x = x + np.float32(np.sqrt(sigmas[at + 1] ** 2 - LEAST**2)) * noise(at + 1)
    return x


def main():
    students = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "../../target/students"
    OUT.mkdir(exist_ok=True)
    model = denoiser()
    onnx.save(model, OUT / "denoiser.onnx")
    cpu = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), providers=cpu)
    found = {str(n): samples(session, n, {"level": 0.25}, (1, 8, 8), SAMPLES) for n in STEPS}
    np.savez_compressed(OUT / "denoiser.npz", **found)
    session = ort.InferenceSession(str(students / TERRAIN), providers=cpu)
    found = {}
    for difficulty in DIFFICULTIES:
        for n in STEPS:
            x = samples(session, n, {"difficulty": difficulty}, (1, 128, 128))
            found[f"{difficulty}.{n}"] = x.reshape(-1)[::STRIDE]
    np.savez_compressed(OUT / "terrain.npz", **found)
    print(f"wrote {len(found)} samples of the terrain student")


if __name__ == "__main__":
    main()
