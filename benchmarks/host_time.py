"""What the training thread does on the host for a step, beside what it asks of the device.

    python benchmarks/host_time.py [--tokens 65536]

For a pack of clips and images of many shapes, median CPU milliseconds of: counting it, laying out documents
and levels for the model, sorting errors by shape and noise, and writing down what was read and how it went.
The work of the loader's threads on the same pack (noise, levels, layout) is given beside it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from learning.stopping import Stop
from trainer.config import FlowConfig
from trainer.data.loader import Member, Pack, offsets_of
from trainer.data.samples import Sample
from trainer.model.attention import documents
from trainer.model.flow import add_noise
from trainer.model.routing import _calls
from trainer.presets import preset
from trainer.reports.efficiency import LossTable, StepTime, step_efficiency
from trainer.reports.run_log import RunLog
from trainer.run.step import StepTotals, consumed_row
from trainer.state.parallel import Ranks

WORDS, ROUNDS = 40, 60


def pack_of(tokens: int) -> Pack:
    """A pack of images of 64 to 1,024 tokens and clips of up to 4,096."""
    rng, grids, room = np.random.default_rng(0), list[tuple[int, int, int]](), tokens
    while room > 0:
        t = 1 if rng.random() < 0.5 else int(rng.integers(2, 12))
        h, w = (int(side) for side in rng.integers(8, 32, 2))
        grids.append((t, h, w))
        room -= t * h * w
    members = [
        Member(Sample(f"{index:016x}-00000000", 0, *grid), grid, index, "dense", False)
        for index, grid in enumerate(grids)
    ]
    counts = [t * h * w for t, h, w in grids]
    total = sum(counts)
    return Pack(
        members=members,
        corrupt=[],
        clean=torch.randn(total, 64),
        valid=torch.ones(total, 4),
        coords=torch.rand(total, 4),
        frame=torch.cat([torch.arange(t).repeat_interleave(h * w) for t, h, w in grids]),
        cu=offsets_of(counts),
        text=torch.randn(WORDS * len(grids), 64),
        text_cu=offsets_of([WORDS] * len(grids)),
    )


def milliseconds(work: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return 1e3 * statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=65_536)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = preset("xl", tokens=options.tokens, peak_tflops=989.0)
    ranks, stop, pack = Ranks(0, 1, torch.device("cpu")), Stop(), pack_of(options.tokens)
    noisy = add_noise(pack, FlowConfig(), is_on_device=True)
    errors, layout, half = [1.0] * len(pack.members), noisy.layout, torch.float32

    def laid_out() -> None:
        for at in (layout.at, layout.text_at):
            documents(layout.at, at, half, torch.device("cpu"), config.long_documents)

    def sorted_out() -> None:
        table = LossTable()
        table.add(noisy, errors)
        table.reduce(ranks).means()

    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder), 0, ranks)

        def written() -> None:
            time_of = StepTime(1.0, 0.0)
            step_efficiency([pack], float(pack.num_tokens), time_of, config, ranks)
            log.consumed({"step": 0} | consumed_row([pack], False))
            log.metrics({"step": 0, "loss": 1.0, "loss_by": dict.fromkeys("abcdef", 1.0)})

        routed = documents(layout.at, layout.at, half, torch.device("cpu"), config.long_documents).route
        assert routed is not None
        calls = 2 * 3 * config.model.depth  # of self- and cross-attention: forward, recomputed and backward

        def routes_read() -> None:
            for _ in range(calls):
                _calls(routed)

        parts = {
            "counting": milliseconds(lambda: StepTotals.of([noisy], stop, 1)),
            "layout for the model": milliseconds(laid_out),
            "routes read by all blocks": milliseconds(routes_read),
            "errors by shape and noise": milliseconds(sorted_out),
            "writing down": milliseconds(written),
        }
        log.close()
    print(f"a pack of {pack.num_tokens:,} tokens, {len(pack.members)} samples:")
    for name, took in parts.items():
        print(f"  {name:28s}{took:6.2f} ms")
    print(f"  {'on the training thread':28s}{sum(parts.values()):6.2f} ms (aim 2)")
    for name, is_on_device in (("noise on the host", False), ("noise on the device", True)):
        work = functools.partial(add_noise, pack, FlowConfig(), is_on_device=is_on_device)
        took = milliseconds(work)
        print(f"  {'the loader: ' + name:28s}{took:6.2f} ms")


if __name__ == "__main__":
    main()
