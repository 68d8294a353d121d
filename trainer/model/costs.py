"""Measured cost of attention relative to all that is linear in tokens, for balancing packs by time."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from trainer.config import FitConfig
from trainer.model.dit import DiT

WORDS, ROUNDS = 40, 5


def timed(model: DiT, lengths: list[int], is_bf16: bool) -> float:
    """Median seconds of forward and backward over documents of these lengths."""
    config, device, count = model.config, next(model.parameters()).device, sum(lengths)
    cu, text_cu = (torch.tensor([0, *own]).cumsum(0) for own in (lengths, [WORDS] * len(lengths)))
    inputs = (
        torch.randn(count, model.head.out_features),
        torch.rand(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        torch.zeros(count),
        torch.rand(count, 4),
        cu,
        torch.randn(int(text_cu[-1]), config.text_width),
        text_cu,
    )
    placed, found = [value.to(device) for value in inputs], []
    for _ in range(ROUNDS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter() if device.type == "cuda" else time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            out = model(*placed)
        out.float().pow(2).mean().backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() if device.type == "cuda" else time.process_time()) - begin)
    return statistics.median(found[1:])


def measure(config: FitConfig, device: torch.device, tokens: int) -> tuple[float, float]:
    """(seconds per token, seconds per squared token) by least squares over packs of several lengths.

    All packs have the same number of tokens.
    """
    torch.manual_seed(0)
    model = DiT(config.model).to(device)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    lengths = [length for length in (64, 256, 1024, 4096, 16384) if length <= tokens]
    rows, took = [], []
    for length in lengths:
        own = [length] * (tokens // length)
        rows.append([float(sum(own)), float(sum(item * item for item in own))])
        took.append(timed(model, own, config.is_bf16 or device.type == "cuda"))
    each, square = np.linalg.lstsq(np.array(rows), np.array(took), rcond=None)[0]
    return float(each), max(0.0, float(square))
