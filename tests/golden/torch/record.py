"""Record `torch.randn` on the CPU: `randn.json`.

    pip install torch==2.11.0 && python record.py

Each case is a seed and the lengths of successive draws from one generator; short draws keep half of a pair for the
next one.
"""

import json
import os

import torch

CASES = [
    (0, [16]),
    (7, [5]),
    (7, [19]),
    (42, [16384]),
    (3, [1, 1, 1]),
    (3, [3, 20, 2, 5]),
    (123456789, [32, 33, 7, 15, 17]),
    (2**32 - 1, [31]),
    (2**32 + 5, [64]),
]

cases = []
for seed, lengths in CASES:
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(n, generator=generator) for n in lengths]
    cases.append(
        dict(
            seed=seed,
            draws=[dict(length=len(d), first=d[:40].tolist(), last=d[-8:].tolist(), sum=d.double().sum().item()) for d in draws],
        )
    )
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "randn.json")
with open(path, "w") as file:
    json.dump(dict(torch=torch.__version__.split("+")[0], cases=cases), file)
    file.write("\n")
