"""A training step: packed sequences beside padded batches on the same samples of many shapes, forward and backward.

    python benchmarks/train_step.py [PRESET] [TOKENS]

On a CPU with the tiny model by default; on a GPU name `base` or `xl` and a budget of 16384 or 65536: it then runs in bfloat16 and prints model FLOPs too.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from trainer.config import PRESETS
from trainer.dit import DiT, count_parameters
from trainer.efficiency import forward_flops
from trainer.packs import PackSettings, plan_epoch
from trainer.patches import coordinates
from trainer.samples import Sample, SampleTable

ROUNDS, WORDS = 5, 40
PATCH = (1, 2, 2)
SHAPES = [(1, 12, 20), (1, 20, 12), (5, 12, 20), (5, 16, 16), (9, 12, 16), (3, 20, 12), (7, 8, 20), (1, 16, 16), (2, 10, 18), (13, 8, 14)]
"""Latent sizes: images and clips of a film world at 64 to 160 pixels a side."""


def inputs(shapes: list[tuple[int, int, int]], model: DiT, padded_to: int = 0) -> tuple[torch.Tensor, ...]:
    """A pack of these shapes; with `padded_to`, each sample takes that many tokens, as in a padded batch."""
    coords = [coordinates((t, -(-h // 2), -(-w // 2)), PATCH, 12.0)[0] for t, h, w in shapes]
    lengths = [padded_to or len(own) for own in coords]
    spread = [torch.cat([own, own[-1:].expand(length - len(own), -1)]) for own, length in zip(coords, lengths, strict=True)]
    total, device = sum(lengths), next(model.parameters()).device
    cu, text_cu = (torch.tensor([0, *own]).cumsum(0) for own in (lengths, [WORDS] * len(shapes)))
    parts = (
        torch.randn(total, model.embed.in_features - 2), torch.rand(len(shapes)).repeat_interleave(torch.tensor(lengths)), torch.zeros(total), torch.cat(spread),
        cu, torch.randn(int(text_cu[-1]), model.config.text_width), text_cu,
    )  # fmt: skip
    return tuple(part.to(device) for part in parts)


def seconds(model: DiT, batches: list[tuple[torch.Tensor, ...]]) -> float:
    """Median time of forward and backward over all batches: CPU seconds, on a GPU seconds."""
    device, found = next(model.parameters()).device, []
    for _ in range(ROUNDS):
        begin = time.process_time() if device.type == "cpu" else time.perf_counter()
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                out = model(*batch)
            out.float().pow(2).mean().backward()
            model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append((time.process_time() if device.type == "cpu" else time.perf_counter()) - begin)
    return statistics.median(found[1:])


def main() -> None:
    name, budget = (sys.argv[1] if len(sys.argv) > 1 else "tiny"), int(sys.argv[2] if len(sys.argv) > 2 else 2048)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = DiT(PRESETS[name]().model).to(device)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    samples = [Sample(f"{index}", index // 50, *SHAPES[index % len(SHAPES)]) for index in range(len(SHAPES) * max(2, budget // 400))]
    plan = plan_epoch(
        SampleTable.of(samples), PackSettings(seed=0, budget=budget, packs_per_step=1, patch=PATCH, attention_cost=1 / (6 * model.config.width)), 0
    )
    packs = [[(item.latent_t, item.latent_h, item.latent_w) for item in pack] for step in plan.steps for pack in plan.packs(step)][:4]
    shapes = [shape for pack in packs for shape in pack]
    longest = max(sample.tokens(PATCH) for sample in samples)
    rows = max(1, budget // longest)
    batches = [shapes[at : at + rows] for at in range(0, len(shapes), rows)]
    valid = sum(t * -(-h // 2) * -(-w // 2) for t, h, w in shapes)
    packed = seconds(model, [inputs(pack, model) for pack in packs])
    padded = seconds(model, [inputs(batch, model, longest) for batch in batches])
    print(
        f"{name}, {count_parameters(model) / 1e6:.1f} M parameters, {len(shapes)} samples of {len(SHAPES)} shapes, {valid} valid tokens, {device.type}"
    )
    for way, took, slots in (("packed", packed, budget * len(packs)), ("padded batches", padded, longest * len(shapes))):
        print(f"{way:16}{took:8.2f} s  {valid / took:10.0f} valid tokens a second, {valid / slots:.2f} of the slots are tokens")
    print(f"ratio of valid tokens a second, packed over padded: {padded / packed:.2f}")
    flops = 3 * sum(forward_flops(model.config, [t * -(-h // 2) * -(-w // 2) for t, h, w in pack], [WORDS] * len(pack)) for pack in packs)
    print(f"packed: {flops / packed / 1e12:.3f} TFLOP/s of model operations")


if __name__ == "__main__":
    main()
