"""Random blocks of every supported GGUF tensor type and their values, by the package `gguf`.

    python tests/golden/gguf_dequant.py

Writes gguf_dequant.json: per type, the blocks and the little-endian f32 values, both in hex.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Byte positions of the f16 scales of a block, which must stay finite.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def main() -> None:
    rng = np.random.default_rng(20)
    golden = {}
    for name in ["F32", "F16", "BF16", *HALVES]:
        kind = GGMLQuantizationType[name]
        values_per_block, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = 256 // values_per_block * 2
        if name in HALVES:
            data = rng.integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
            for at in HALVES[name]:
                scales = rng.normal(0, 0.3, blocks).astype(np.float16)
                data[:, at : at + 2] = scales.view(np.uint8).reshape(blocks, 2)
        else:
            floats = rng.normal(0, 3, blocks).astype(np.float32)
            if name == "F16":
                data = floats.astype(np.float16).view(np.uint8)
            elif name == "F32":
                data = floats.view(np.uint8)
            else:
                data = (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
            data = data.reshape(1, -1)
        values = dequantize(data.reshape(1, -1), kind).astype("<f4")
        assert values.size == 512 and np.isfinite(values).all(), name
        golden[name] = {"blocks": data.tobytes().hex(), "values": values.tobytes().hex()}
    path = Path(__file__).with_name("gguf_dequant.json")
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
