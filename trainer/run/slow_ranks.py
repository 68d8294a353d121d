"""Which processes are slower than the others: all wait for the slowest in every step, and none shows why."""

from __future__ import annotations

import socket
import statistics
import time

import torch

from manifests.cli import say
from trainer.state.parallel import Ranks

LOOK_EVERY = 1000
"""Steps between looks."""
SLOW = 1.25
"""Times the median of all from which a process is named."""
_SIDE, _ROUNDS = {"cuda": 4096, "cpu": 384}, 7


def own_s(device: torch.device) -> float:
    """Median seconds of one product of matrices, the same work on every process."""
    side, dtype = _SIDE[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix, found = torch.ones(side, side, device=device, dtype=dtype), []
    for _ in range(_ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def slow_ones(seconds: list[float]) -> dict[int, float]:
    """Processes that take longer than the others, and how many times the median."""
    usual = statistics.median(seconds)
    return {rank: own / usual for rank, own in enumerate(seconds) if own > SLOW * usual}


def name_slow(ranks: Ranks) -> None:
    """Let every process do the same work, and say which took longer; every one must call."""
    if ranks.size == 1:
        return
    slow = slow_ones(ranks.gather(own_s(ranks.device)))
    if ranks.rank in slow:
        say(
            f"fit: process {ranks.rank} on {socket.gethostname()} ({ranks.device}) takes "
            f"{slow[ranks.rank]:.2f} times as long as the median for the same work; all wait for it"
        )
