"""The noise that samples are made of: Philox 4x32-10 and the transform of Box and Muller, in numpy.

Writes noise.json: the first numbers of some draws, each with its seed. `normals` is for other generators.

Run by `cargo xtask golden`.
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "noise.json"
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
WORD = np.uint64(0xFFFFFFFF)
# Last word of the counter, for normal numbers.
NORMALS = 2


def philox(counter, key):
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); counter: four arrays of words."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            second & WORD,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            first & WORD,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def normals(seed, draw, count):
    """`count` numbers of this draw of a seed, f64."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(block)
    key = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    counter = block & WORD, block >> np.uint64(32), zero + np.uint64(draw), zero + np.uint64(NORMALS)
    a, b, c, d = (word.astype(np.float64) for word in philox(counter, key))
    pairs = []
    for u, v in ((a, b), (c, d)):
        radius, angle = np.sqrt(-2 * np.log((u + 1) / 2**32)), 2 * np.pi * v / 2**32
        pairs += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(pairs, 1).reshape(-1)[:count]


def main():
    cases = [(0, 0), (7, 0), (7, 1), (2**40 + 5, 3), (2**64 - 1, 1000)]
    draws = [dict(seed=s, draw=d, values=normals(s, d, 42).tolist()) for s, d in cases]
    OUT.write_text("[\n" + ",\n".join(json.dumps(draw) for draw in draws) + "\n]\n")
    print(f"wrote {OUT.name}: {len(draws)} draws")


if __name__ == "__main__":
    main()
