"""What ONNX Runtime gives for the real ONNX students, on inputs that a formula makes.

Writes onnx_students.npz: for each call of a student (`STUDENT.CALL.NAME`) the shape of an output, and
`STUDENT.CALL.NAME.values` every `STRIDE`-th value of it, f32 or i64.

    python tests/golden/onnx_students.py [STUDENTS]
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).parent
STRIDE = 101

# A word in letters of 5 x 7 pixels, for students that read.
LETTERS = """
x.... .xxx. x...x xxxx. xxxxx .xxx. x...x
x.... ..x.. xx.xx x...x x.... x...x x..x.
x.... ..x.. x.x.x x...x x.... x.... x.x..
x.... ..x.. x.x.x xxxx. xxxx. x.... xx...
x.... ..x.. x...x x...x x.... x.... x.x..
x.... ..x.. x...x x...x x.... x...x x..x.
xxxxx .xxx. x...x xxxx. xxxxx .xxx. x...x
"""


def word(height, width, scale):
    """The word on white, [height, width] of 0 and 255."""
    rows = [list(" ".join(line.split())) for line in LETTERS.split("\n") if line]
    dark = np.array([[pixel == "x" for pixel in row] for row in rows])
    dark = dark.repeat(scale, 0).repeat(scale, 1)
    image = np.full((height, width), 255)
    top, left = (height - dark.shape[0]) // 2, (width - dark.shape[1]) // 2
    image[top : top + dark.shape[0], left : left + dark.shape[1]][dark] = 0
    return image


def read(image):
    """As these students take it: three equal channels from -1 to 1."""
    x = (image.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return dict(x=np.repeat(x[None, None], 3, 1))


def floats(*shape, seed=0, low=-1.0, high=1.0):
    """Numbers from a linear congruence, which a test makes again."""
    count = int(np.prod(shape))
    index = np.arange(count, dtype=np.uint64) + np.uint64(seed * 1000003)
    noise = (index * np.uint64(2654435761)) % np.uint64(1 << 32) >> np.uint64(8)
    unit = noise.astype(np.float64) / float(1 << 24)
    return (low + unit * (high - low)).astype(np.float32).reshape(shape)


def ids(*shape, seed=0, below=1000):
    return (floats(*shape, seed=seed, low=0.0, high=1.0) * below).astype(np.int64)


# Height and width of images and of a letter's pixels.
DET = ((96, 192, 4), (64, 224, 3))
REC = ((48, 200, 4), (48, 320, 5))


def calls():
    terrain = lambda n, s: dict(noisy=floats(n, 1, 128, 128, seed=s, low=-80, high=80),
                                sigma=np.full(n, 80, np.float32), difficulty=floats(n, seed=3, low=0, high=1))
    yield "magika/model.onnx", [dict(bytes=ids(n, 2048, seed=n, below=257).astype(np.int32)) for n in (2, 1)]
    yield "efficientnet/model.onnx", [dict(pixels=floats(n, 3, 224, 224, seed=n)) for n in (2, 1)]
    yield "terrain/terrain_consistency_unet_difficulty100.onnx", [terrain(1, 1), terrain(2, 2)]
    yield "ppocr/PP-OCRv6_det_small.onnx", [read(word(*sides)) for sides in DET]
    yield "ppocr/PP-OCRv6_rec_small.onnx", [read(word(*sides)) for sides in REC]
    text = lambda n, t: dict(input_ids=ids(n, t, seed=5, below=30000), attention_mask=np.ones((n, t), np.int64),
                             token_type_ids=np.zeros((n, t), np.int64))
    yield "minilm-int8/model.onnx", [text(2, 16), text(1, 40)]
    sequence = dict(input=floats(5, 576, seed=9, low=-0.1, high=0.1), h=floats(1, 1, 128, seed=1), c=floats(1, 1, 128, seed=2))
    yield "silero/silero_vad_16k_sequence.onnx", [sequence]


def streamed(students, model):
    """A model for single steps: its state goes from call to call."""
    session = ort.InferenceSession(str(students / "silero" / model))
    state = np.zeros((2, 1, 128), np.float32)
    for step in range(4):
        call = dict(input=floats(1, 576, seed=step, low=-0.3, high=0.3), state=state, sr=np.array(16000))
        output, state = session.run(None, call)
        yield {"output": output, "stateN": state}


def main():
    students = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "../../target/students"
    tensors = {}

    def keep(student, call, outputs):
        for name, value in outputs.items():
            key = f"{student}.{call}.{name}"
            tensors[key] = np.array(value.shape, np.int64)
            tensors[f"{key}.values"] = value.reshape(-1)[::STRIDE] if value.size > 4096 else value.reshape(-1)

    for path, inputs in calls():
        options = ort.SessionOptions()
        session = ort.InferenceSession(str(students / path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        for number, call in enumerate(inputs):
            student = path.split("/")[0] + "/" + Path(path).stem
            keep(student.replace(".", "_"), number, dict(zip(names, session.run(None, call))))
    for step, outputs in enumerate(streamed(students, "silero_vad_16k_op15.onnx")):
        keep("silero/streamed", step, outputs)
    # The package's own, which chooses its branch by the rate.
    for step, outputs in enumerate(streamed(students, "silero_vad.onnx")):
        keep("silero/main", step, outputs)
    for name, all_sides in (("det", DET), ("rec", REC)):
        for number, sides in enumerate(all_sides):
            tensors[f"image.{name}.{number}"] = word(*sides)
    np.savez_compressed(HERE / "onnx_students.npz", **tensors)


if __name__ == "__main__":
    main()
