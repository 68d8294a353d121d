"""What a device was measured to do: cost of attention for balancing packs, and the fastest kernel by length.

`rushes measure` writes a file, `--measured FILE` takes it into a run's settings, which travel with the run.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.config import FitConfig
from trainer.model.attention import Documents, attend_routed, attend_varlen, documents
from trainer.model.dit import DiT
from trainer.model.routes import checked_route
from trainer.model.routing import NEVER
from trainer.reports.memory import kept_that_fit
from trainer.state.parallel import Ranks, build

WORDS, ROUNDS, LEAST_COST = 40, 5, 1e-9
Attend = Callable[[Tensor, Tensor, Tensor, Documents], Tensor]
LENGTHS = (64, 256, 1024, 4096, 16384, 65536)
"""Tokens of the documents of a pack, one length a pack."""
KERNEL_LENGTHS = tuple(256 << power for power in range(9))


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds of forward and backward on one pack of documents of one length, compiled."""

    length: int
    together: float  # the variable-length kernel
    alone: float  # cuDNN's, one call a document
    torchs: float  # torch's own variable-length call


@dataclass(frozen=True)
class Measured:
    """What `rushes measure` finds.

    Attributes:
        device: name of the device.
        attention_cost: of a squared token, where a token costs 1.
        long_documents: tokens from which a document has a kernel to itself; 0: never.
        kernels: times by length; empty where a device has one kernel.
    """

    device: str
    preset: str
    tokens: int
    seconds_per_token: float
    seconds_per_squared_token: float
    attention_cost: float
    attention_cost_by_operations: float
    long_documents: int
    kernels: list[dict[str, float]]


def _now(device: torch.device) -> float:
    """Seconds, of the processor where it computes."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def median_s(device: torch.device, work: Callable[[], object]) -> float:
    """Median seconds of some work, after one round that does not count."""
    found = []
    for _ in range(ROUNDS + 1):
        begin = _now(device)
        work()
        found.append(_now(device) - begin)
    return statistics.median(found[1:])


def step_s(model: DiT, lengths: list[int], is_bf16: bool) -> float:
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
    placed = [value.to(device) for value in inputs]

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            out = model(*placed)
        out.float().pow(2).mean().backward()
        model.zero_grad(set_to_none=True)

    return median_s(device, work)


def costs(config: FitConfig, device: torch.device, tokens: int) -> tuple[float, float]:
    """(seconds per token, seconds per squared token) by least squares over packs of several lengths.

    The model is built as a run builds it: compiled and recomputed where that is set.
    """
    torch.manual_seed(0)
    config = replace(config, tokens=tokens)
    model = build(config, Ranks(0, 1, device), keeps=kept_that_fit(config, 1, device))
    torch.nn.init.normal_(model.head.weight, std=0.02)
    rows, took = [], []
    for length in (own for own in LENGTHS if own <= tokens):
        own = [length] * (tokens // length)
        rows.append([float(sum(own)), float(sum(item * item for item in own))])
        took.append(step_s(model, own, config.is_bf16 or device.type == "cuda"))
    each, square = np.linalg.lstsq(np.array(rows), np.array(took), rcond=None)[0]
    return float(each), max(0.0, float(square))


def _forward_and_back(way: Attend, q: Tensor, k: Tensor, v: Tensor, of: Documents) -> None:
    torch.autograd.grad(way(q, k, v, of).sum(), (q, k, v))


def kernel_times(num_heads: int, width: int, device: torch.device, tokens: int) -> list[KernelTime]:
    """Both kernels of a GPU on packs of documents of one length each; none where there is one kernel."""
    if checked_route(device, num_heads, width, 96) is None:
        return []
    routed, own_call = (torch.compile(way, dynamic=True) for way in (attend_routed, attend_varlen))
    found = []
    for length in (own for own in KERNEL_LENGTHS if own <= tokens):
        at = torch.arange(tokens // length + 1) * length
        q, k, v = (
            torch.randn(int(at[-1]), num_heads, width, device=device, dtype=torch.bfloat16).requires_grad_()
            for _ in range(3)
        )

        took = []
        for way, long_from in ((routed, NEVER), (routed, 1), (own_call, None)):
            of = documents(at, at, q.dtype, device, long_from)
            took.append(median_s(device, functools.partial(_forward_and_back, way, q, k, v, of)))
        found.append(KernelTime(length, *(1e3 * each for each in took)))
    return found


def crossover(times: list[KernelTime]) -> int:
    """The length from which on a kernel a document is faster for all that are longer; 0: it never is."""
    best = 0
    for own in sorted(times, key=lambda own: -own.length):
        if own.alone >= own.together:
            break
        best = own.length
    return best


def measure(config: FitConfig, device: torch.device, tokens: int) -> Measured:
    """Time this device as a run would use it."""
    model = config.model
    times = kernel_times(model.num_heads, model.width // model.num_heads, device, tokens)
    long_documents = crossover(times)
    each, square = costs(replace(config, long_documents=long_documents), device, tokens)
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        preset=config.preset,
        tokens=tokens,
        seconds_per_token=each,
        seconds_per_squared_token=square,
        attention_cost=max(square / each, LEAST_COST),
        attention_cost_by_operations=1 / (6 * model.width),
        long_documents=long_documents,
        kernels=[asdict(own) for own in times],
    )
