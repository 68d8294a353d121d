"""Packed attention on the CPU: documents grouped by length beside one dense block mask, forward and backward,
medians of one run.

python benchmarks/attention.py
"""

from __future__ import annotations

import statistics
import time

import torch

from trainer.model.attention import attend, attend_dense, documents

PACKS = {
    "8 documents of 64 to 1024": [64, 128, 256, 512, 1024, 1024, 576, 512],
    "64 documents of 64": [64] * 64,
}


def seconds(function, q, k, v, of) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        function(q, k, v, of).square().sum().backward()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    torch.manual_seed(0)
    for name, lengths in PACKS.items():
        cu = torch.tensor([0, *lengths]).cumsum(0)
        total, of = sum(lengths), documents(cu, cu, torch.float32)
        q, k, v = (torch.randn(total, 6, 64, requires_grad=True) for _ in range(3))
        difference = (attend(q, k, v, of) - attend_dense(q, k, v, of)).abs().max().item()
        grouped, dense = seconds(attend, q, k, v, of), seconds(attend_dense, q, k, v, of)
        print(
            f"{name}, {total} tokens: grouped {grouped * 1e3:.0f} ms, dense mask {dense * 1e3:.0f} ms: "
            f"{dense / grouped:.1f}x; max difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
