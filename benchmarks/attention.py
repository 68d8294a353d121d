"""Packed attention on the CPU, forward and backward, medians of one run.

    python benchmarks/attention.py

Documents grouped by length beside one dense block mask, in fp32; documents of nearly equal lengths padded to
share a call beside only equal ones, in bf16; noise levels of tokens looked up beside an index.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.model.attention import attend, attend_dense, documents
from trainer.model.kernels import look_up, pieces_of

PACKS = {
    "8 documents of 64 to 1024": [64, 128, 256, 512, 1024, 1024, 576, 512],
    "64 documents of 64": [64] * 64,
    "33 documents of 60 to 243": [60, 63, 66, 70, 72, 77, 80, 81, 84, 88, 90, 96, 99, 100]
    + [120, 126, 132, 140, 144, 154, 160, 162, 168, 176, 180, 192, 198, 200, 210, 220, 231, 240, 243],
}


def seconds(function: Callable[[], Tensor]) -> float:
    """Median of five passes forward and backward."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        function().float().square().sum().backward()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def told(name: str, ours: float, theirs: float, other: str, difference: float) -> None:
    print(
        f"{name}: {ours * 1e3:.0f} ms, {other} {theirs * 1e3:.0f} ms: {theirs / ours:.1f}x; "
        f"max difference {difference:.1e}"
    )


def attention(name: str, lengths: list[int], dtype: torch.dtype) -> None:
    cu = torch.tensor([0, *lengths]).cumsum(0)
    of = documents(cu, cu, dtype)
    q, k, v = (torch.randn(sum(lengths), 6, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    own = seconds(lambda: attend(q, k, v, of))
    if dtype == torch.float32:
        found, expected = attend(q, k, v, of), attend_dense(q, k, v, of)
        other, way = seconds(lambda: attend_dense(q, k, v, of)), "dense mask"
    else:
        grouped = of._replace(padding=None)
        found, expected = attend(q, k, v, of), attend(q, k, v, grouped)
        other, way = seconds(lambda: attend(q, k, v, grouped)), "by equal lengths"
    difference = (found.float() - expected.float()).abs().max().item()
    told(f"{name}, {sum(lengths)} tokens, {str(dtype)[6:]}", own, other, way, difference)


def levels(count: int) -> None:
    table = torch.randn(count, 6 * 320, requires_grad=True)
    level = torch.randint(0, count, (4096,)).sort().values
    pieces = pieces_of(level)
    difference = (look_up(table, level, *pieces) - table[level]).abs().max().item()
    own, other = seconds(lambda: look_up(table, level, *pieces)), seconds(lambda: table[level])
    told(f"{count} noise levels of 4096 tokens", own, other, "by index", difference)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for name, lengths in PACKS.items():
            attention(name, lengths, dtype)
    levels(40)


if __name__ == "__main__":
    main()
