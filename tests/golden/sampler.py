"""Next-token distributions after penalties and filters, as transformers computes them.

Writes sampler.json: logits [3][vocab] and cases, each with the options of a sampler, a history and
`expected`, the tokens left with their probabilities. Presence and frequency penalties, which
transformers lacks, are applied by the formula of OpenAI's API reference after the repetition penalty.

Run by `cargo xtask golden`.
"""

import itertools
import json
from pathlib import Path

import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

OUT = Path(__file__).parent / "sampler.json"
VOCAB = 200
NEUTRAL = dict(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    penalty_window=None,
    history=[],
)


def distribution(logits, case):
    scores = logits[None].clone()
    window = case["penalty_window"]
    history = torch.tensor([case["history"][-window:] if window else case["history"]], dtype=torch.long)
    if history.numel():
        scores = RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])(history, scores)
        counts = torch.bincount(history[0], minlength=scores.shape[1])
        scores = scores - case["presence_penalty"] * (counts > 0) - case["frequency_penalty"] * counts
    scores = TemperatureLogitsWarper(case["temperature"])(None, scores)
    if case["top_k"]:
        scores = TopKLogitsWarper(case["top_k"])(None, scores)
    if case["top_p"] < 1.0:
        scores = TopPLogitsWarper(case["top_p"])(None, scores)
    if case["min_p"]:
        scores = MinPLogitsWarper(case["min_p"])(None, scores)
    left = (scores[0] > -torch.inf).nonzero()[:, 0]
    probabilities = torch.softmax(scores[0].double(), 0)
    return [[int(i), round(float(probabilities[i]), 9)] for i in left]


def main():
    generator = torch.Generator().manual_seed(2)
    peaked = torch.randn(VOCAB, generator=generator) * 3
    flat = torch.randn(VOCAB, generator=generator) * 0.2 - 5
    masked = torch.randn(VOCAB, generator=generator) * 2
    # Ties, at the cut of top_k = 3 too.
    masked[[10, 20, 30, 40]] = masked.max() + 0.5
    masked = masked.round(decimals=3)
    logits = [peaked.round(decimals=3), flat.round(decimals=4), masked]

    changes = [
        dict(zip(("temperature", "top_k", "top_p", "min_p"), values))
        for values in itertools.product((0.7, 1.5), (0, 12), (1.0, 0.8), (0.0, 0.1))
    ]
    changes += [dict(top_k=3), dict(top_k=1), dict(top_k=500), dict(top_p=0.05), dict(min_p=1.0)]
    history = [3, 3, 3, 50, 10, 199, 50, 0]
    penalties = [
        dict(repetition_penalty=1.3),
        dict(repetition_penalty=0.8),
        dict(presence_penalty=0.9),
        dict(frequency_penalty=0.4),
        dict(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=-0.2, penalty_window=5),
    ]
    changes += [dict(history=history, top_k=20, **penalty) for penalty in penalties]
    cases = []
    for index, change in itertools.product(range(3), changes):
        # Where many tokens are equally likely, which of them top_p keeps is left to the sort.
        if index == 2 and change.get("top_p", 1.0) < 1.0:
            continue
        case = {**NEUTRAL, **change, "logits": index}
        cases.append({**case, "expected": distribution(logits[index], case)})
    lists = [[round(float(x), 4) for x in row] for row in logits]
    OUT.write_text(json.dumps({"logits": lists, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
