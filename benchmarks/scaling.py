"""What a step takes on 8, 64 and 512 GPUs, reckoned from measured parts and published bandwidths.

    python benchmarks/scaling.py

Nothing here is measured on so many devices. Operations, bytes and packs are counted from the presets; shares
of the peak were measured on one H100, bandwidths are those that makers publish times a share that
collectives reach, and the spread of packs is that of the planner's own plans.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import torch

from trainer.config import FitConfig
from trainer.model.dit import DiT, count_parameters
from trainer.presets import PRESETS
from trainer.reports.efficiency import forward_flops

PEAK = 989e12  # H100 SXM, bf16 without sparsity (NVIDIA's data sheet)
SHARE_OF_PEAK = {"xl": 0.305, "3b": 0.355, "14b": 0.355}
"""Measured on one H100 by a prototype of the step: 1152 x 28 and 3 B, compiled, documents of mixed lengths,
cuDNN for long ones. 14 B has not been measured: it is taken to be as 3 B."""
IN_NODE, BETWEEN = 450e9, 50e9  # bytes a second of a GPU each way: NVLink 4, and one 400 Gb/s card a GPU
REACHED = 0.8  # of a link's bandwidth by large collectives
HOP_IN_NODE, HOP_BETWEEN = 1.5e-6, 6e-6  # seconds a hop of a ring: assumed
PER_NODE, DOCUMENT, WORDS = 8, 4096, 64
SPREAD = {8: 1.006, 64: 1.014, 512: 1.025}
"""Slowest process over the mean: 64 measured (benchmarks/packing.py), the others taken around it."""


@dataclass(frozen=True)
class Way:
    """How a run is dealt to devices: `shards` share one copy of the weights, `sequence` share a pack."""

    devices: int
    shards: int
    sequence: int = 1

    @property
    def name(self) -> str:
        said = "FSDP" if self.shards == self.devices else f"HSDP of {self.shards}"
        return said + (f", {self.sequence} share a pack" if self.sequence > 1 else "")


def ring_s(size: float, devices: int) -> float:
    """Seconds of an all-gather or a reduce-scatter of so many bytes, among devices of whole nodes."""
    nodes = max(1, devices // PER_NODE)
    # every rail carries its part between nodes at once, so that a GPU's own card is what binds
    link = IN_NODE if nodes == 1 else min(IN_NODE, PER_NODE * BETWEEN)
    hops = HOP_IN_NODE * (min(devices, PER_NODE) - 1) + HOP_BETWEEN * (nodes - 1)
    return size * (devices - 1) / devices / (link * REACHED) + hops


def between_s(size: float, copies: int) -> float:
    """Seconds in which as many copies, each on a node of its own, add up so many bytes a GPU."""
    return 2 * (size * (copies - 1) / copies / (BETWEEN * REACHED) + HOP_BETWEEN * (copies - 1))


def step_parts(name: str, config: FitConfig, way: Way) -> dict[str, float]:
    """Seconds of a step of one pack a group, by part, and what is left of the peak."""
    model = config.model
    lengths = [DOCUMENT] * (config.tokens // DOCUMENT)
    operations = 3 * forward_flops(model, lengths, [WORDS] * len(lengths)) / way.sequence
    with torch.device("meta"):
        built = DiT(model)
        count, block = count_parameters(built), count_parameters(built.blocks[0])
    compute = operations / PEAK / SHARE_OF_PEAK[name]
    # each block is gathered in half precision twice (again in the backward pass), its gradient dealt in fp32
    weights = model.depth * (2 * ring_s(2 * block, way.shards) + ring_s(4 * block, way.shards))
    copies = between_s(4 * count / way.shards, way.devices // way.shards)
    values = 2 * model.width * config.tokens / way.sequence
    # queries, keys and values to heads, results back, and the same again in the backward pass
    tokens = model.depth * 2 * 4 * values / (IN_NODE * REACHED) if way.sequence > 1 else 0.0
    spread = compute * (SPREAD[way.devices] - 1)
    open_ = max(0.0, weights - compute) + copies + tokens + spread
    return {
        "compute": compute,
        "weights": weights,
        "copies": copies,
        "tokens": tokens,
        "spread": spread,
        "efficiency": compute / (compute + open_),
        "share of peak": SHARE_OF_PEAK[name] * compute / (compute + open_),
        "tokens a second": config.tokens / way.sequence * way.devices / (compute + open_),
        "tokens a step": config.tokens / way.sequence * way.devices,
    }


def binds(parts: dict[str, float]) -> str:
    """What costs most beside computing."""
    costs = {
        "weights": max(0.0, parts["weights"] - parts["compute"]),
        **{name: parts[name] for name in ("copies", "tokens", "spread")},
    }
    worst = max(costs, key=lambda name: costs[name])
    said = {"spread": "unequal packs", "copies": "gradients between copies", "tokens": "exchange of heads"}
    return said.get(worst, "gathering weights") if costs[worst] > 0 else "nothing"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(
        "| model | GPUs | way | compute ms | weights ms | copies ms | heads ms | spread ms | share of peak |"
        " M tokens a second | M tokens a step | costs most |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in SHARE_OF_PEAK:
        config = replace(PRESETS[name](), packs_per_step=1)
        for devices in (8, 64, 512):
            ways = [Way(devices, devices), Way(devices, 8), Way(devices, devices, 8)]
            for way in ways if devices > 8 else ways[1:]:
                parts = step_parts(name, config, way)
                print(
                    f"| {name} | {devices} | {way.name} | "
                    + " | ".join(f"{1e3 * parts[key]:.0f}" for key in list(parts)[:5])
                    + f" | {parts['share of peak']:.3f} | {parts['tokens a second'] / 1e6:.2f} | "
                    f"{parts['tokens a step'] / 1e6:.2f} | {binds(parts)} |"
                )


if __name__ == "__main__":
    main()
