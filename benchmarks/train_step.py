"""A training step (forward, backward, AdamW): packed sequences beside padded batches on the same samples of
many shapes.

    python benchmarks/train_step.py [PRESET] [TOKENS] [--compile] [--checkpoint] [--ways varlen,flex,padded]
    [--peak TFLOPS]

On a CPU with the tiny model by default. On a GPU name `base` or `xl` and a budget of 16384 or 65536: it then
runs in bfloat16, packs by torch's variable-length kernel and by FlexAttention, pads by
`scaled_dot_product_attention`, and prints MFU where the device's peak is given (989 for an H100 or H200).
Padding is attended to as if it were tokens: no mask slows the padded batches down.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from unittest import mock

import torch
import torch.nn.functional as F
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

from trainer.data.packs import PackSettings, plan_epoch
from trainer.data.patches import coordinates
from trainer.data.samples import Sample, SampleTable
from trainer.model import attention, dit
from trainer.model.dit import DiT, count_parameters
from trainer.presets import PRESETS
from trainer.reports.efficiency import forward_flops

Grid = tuple[int, int, int]
ROUNDS, WORDS = 5, 40
PATCH = (1, 2, 2)
SHAPES = [
    (1, 12, 20),
    (1, 20, 12),
    (5, 12, 20),
    (5, 16, 16),
    (9, 12, 16),
    (3, 20, 12),
    (7, 8, 20),
    (1, 16, 16),
    (2, 10, 18),
    (13, 8, 14),
]
"""Latent sizes: images and clips of a film world at 64 to 160 pixels a side."""
LARGE_SHAPES = [
    (1, 64, 64),
    (1, 60, 104),
    (1, 104, 60),
    (6, 40, 72),
    (21, 40, 40),
    (13, 80, 44),
    (9, 104, 60),
    (11, 60, 104),
    (21, 60, 104),
]
"""The same of footage at up to 480 x 832 pixels and 81 frames: 1,024 to 32,760 tokens."""


def inputs(shapes: list[tuple[int, int, int]], model: DiT, padded_to: int = 0) -> tuple[torch.Tensor, ...]:
    """A pack of these shapes; with `padded_to`, each sample takes that many tokens, as in a padded batch."""
    coords = [coordinates((t, -(-h // 2), -(-w // 2)), PATCH, 12.0)[0] for t, h, w in shapes]
    lengths = [padded_to or len(own) for own in coords]
    spread = [
        torch.cat([own, own[-1:].expand(length - len(own), -1)])
        for own, length in zip(coords, lengths, strict=True)
    ]
    total, device = sum(lengths), next(model.parameters()).device
    cu, text_cu = (torch.tensor([0, *own]).cumsum(0) for own in (lengths, [WORDS] * len(shapes)))
    parts = (
        torch.randn(total, model.embed.in_features - 2),
        torch.rand(len(shapes)).repeat_interleave(torch.tensor(lengths)),
        torch.zeros(total),
        torch.cat(spread),
        cu,
        torch.randn(int(text_cu[-1]), model.config.text_width),
        text_cu,
    )
    return tuple(part.to(device) for part in parts)


def seconds(model: DiT, batches: list[tuple[torch.Tensor, ...]]) -> float:
    """Median time of a step on each of all batches: CPU seconds, on a GPU seconds."""
    device, found = next(model.parameters()).device, []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    for _ in range(ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.process_time() if device.type == "cpu" else time.perf_counter()
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                out = model(*batch)
            out.float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append((time.process_time() if device.type == "cpu" else time.perf_counter()) - begin)
    return statistics.median(found[1:])


def attend_padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: attention.Documents) -> torch.Tensor:
    rows = len(of.cu_q) - 1
    queries, keys, values = (x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(0, 1)


@contextmanager
def attending(way: str) -> Iterator[None]:
    """Let the model attend in one way: varlen, flex, grouped (one batched call for documents of equal
    lengths), padded (all documents are of equal lengths).
    """
    chosen = {
        "varlen": attention.attend_varlen,
        "flex": attention.attend_flex,
        "grouped": attention.attend_grouped,
        "padded": attend_padded,
    }[way]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: attention.Documents) -> torch.Tensor:
        return chosen(q.to(v.dtype), k.to(v.dtype), v, of)

    with (
        mock.patch.object(dit, "attend", attend),
        mock.patch.object(attention, "is_varlen", lambda dtype: way != "flex"),
    ):
        yield


def built(options: argparse.Namespace, device: torch.device) -> DiT:
    torch.manual_seed(0)
    model = DiT(PRESETS[options.preset]().model).to(device)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    for index, plain in enumerate(model.blocks):  # as in trainer/state/parallel.py
        block = (
            checkpoint_wrapper(plain, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
            if options.checkpoint
            else plain
        )
        if options.compile:
            block.compile(dynamic=True)
        model.blocks[index] = block
    return model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="tiny")
    parser.add_argument("tokens", nargs="?", type=int, default=2048)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help=(
            "activations are computed again for the backward pass; their operations do not count as the "
            "model's"
        ),
    )
    parser.add_argument(
        "--ways", default="varlen,flex,padded" if torch.cuda.is_available() else "grouped,padded"
    )
    parser.add_argument("--peak", type=float, default=0.0)
    return parser.parse_args()


def grids_of_packs(samples: list[Sample], budget: int, width: int) -> list[list[Grid]]:
    """The latents' grids of a few packs, as the trainer's plan makes them."""
    settings = PackSettings(
        seed=0, budget=budget, packs_per_step=1, patch=PATCH, attention_cost=1 / (6 * width)
    )
    plan = plan_epoch(SampleTable.of(samples), settings, 0)
    packs = (pack for step in plan.steps for pack in plan.packs(step))
    return [[(item.latent_t, item.latent_h, item.latent_w) for item in pack] for pack in islice(packs, 4)]


def tokens_of(grid: Grid) -> int:
    return grid[0] * -(-grid[1] // 2) * -(-grid[2] // 2)


def main() -> None:
    options = arguments()
    device, budget = torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.tokens
    sizes = SHAPES
    if budget >= 8192:
        sizes = [size for size in LARGE_SHAPES if Sample("", 0, *size).tokens(PATCH) <= budget]
    count = len(sizes) * max(2, 16 * budget // 8192)
    samples = [Sample(f"{index}", index // 50, *sizes[index % len(sizes)]) for index in range(count)]

    model = built(options, device)
    packs = grids_of_packs(samples, budget, model.config.width)
    shapes = [shape for pack in packs for shape in pack]
    longest, valid = max(sample.tokens(PATCH) for sample in samples), sum(map(tokens_of, shapes))
    rows = max(1, budget // longest)
    batches = [shapes[at : at + rows] for at in range(0, len(shapes), rows)]
    flops = 3 * sum(
        forward_flops(model.config, [tokens_of(grid) for grid in pack], [WORDS] * len(pack)) for pack in packs
    )
    print(
        f"{options.preset}, {count_parameters(model) / 1e6:.1f} M parameters, {len(shapes)} samples of "
        f"{len(sizes)} shapes, {valid} valid tokens, {device.type}"
        + (", compiled" if options.compile else "")
        + (", checkpointed" if options.checkpoint else "")
    )
    del model

    took: dict[str, float] = {}
    for way in options.ways.split(","):
        name = way if way == "padded" else f"packed, {way}"
        slots = longest * len(shapes) if way == "padded" else budget * len(packs)
        with attending(way):
            model = built(options, device)
            filled = (
                [inputs(batch, model, longest) for batch in batches]
                if way == "padded"
                else [inputs(pack, model) for pack in packs]
            )
            took[name] = own_s = seconds(model, filled)
            del model, filled
        mfu = f", MFU {flops / own_s / options.peak / 1e12:.3f}" if options.peak else ""
        print(
            f"{name:16}{own_s:8.2f} s {valid / own_s:10.0f} valid tokens a second, {valid / slots:.2f} of "
            f"the slots are tokens, {flops / own_s / 1e12:.3f} TFLOP/s of model operations{mfu}",
            flush=True,
        )

    if device.type == "cuda":
        print(f"most memory held: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if "padded" in took:
        best = min(own_s for name, own_s in took.items() if name != "padded")
        print(f"ratio of valid tokens a second, packed over padded: {took['padded'] / best:.2f}")


if __name__ == "__main__":
    main()
