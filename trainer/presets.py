"""Named sizes of a training run. A preset is a function that returns settings.

Each runs as it is, up to 3b on one device of 80 GB and 14b on eight: `rushes fit PRESET --dry-run` tells.
Heads are 128 wide (of `tiny` 64), for which attention kernels are fastest: XL has 9 of them, not DiT's 16 of
72. Learning rates: 1e-4 for DiT of any size (Peebles and Xie 2023), 1e-4 to 5e-5 for 11 B (Open-Sora 2.0,
arXiv:2503.09642), more for smaller ones. An average looks back over about two hundredths of its run (that of
`tiny` over two fifths).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trainer.config import FitConfig, ModelConfig


def tiny() -> FitConfig:
    """4 M parameters: learns on two CPU cores in minutes."""
    return FitConfig(preset="tiny")


def _sized(name: str, width: int, depth: int, **settings: Any) -> FitConfig:
    """A size for GPUs: heads of 128, half precision, compiled, noise drawn on the device."""
    model = ModelConfig(width=width, depth=depth, num_heads=width // 128)
    return FitConfig(preset=name, model=model, is_bf16=True, is_compiled=True, noise="device", **settings)


def small() -> FitConfig:
    """DiT-S: 12 blocks of width 384."""
    return _sized("small", 384, 12, tokens=16384, lr=4e-4, steps=100_000, warmup_steps=1000, ema_decay=0.9995)


def base() -> FitConfig:
    """DiT-B: 12 blocks of width 768."""
    return _sized("base", 768, 12, tokens=32768, lr=2e-4, steps=200_000, warmup_steps=2000, ema_decay=0.9998)


def large() -> FitConfig:
    """DiT-L: 24 blocks of width 1024."""
    return _sized(
        *("large", 1024, 24),
        tokens=32768,
        lr=1.5e-4,
        steps=300_000,
        warmup_steps=3000,
        ema_decay=0.9998,
        is_checkpointed=True,
    )


def xl() -> FitConfig:
    """DiT-XL: 28 blocks of width 1152."""
    return _sized(
        *("xl", 1152, 28),
        tokens=32768,
        lr=1e-4,
        steps=400_000,
        warmup_steps=5000,
        ema_decay=0.9999,
        is_checkpointed=True,
    )


def three_b() -> FitConfig:
    """3 B parameters: 28 blocks of width 2560."""
    return _sized(
        *("3b", 2560, 28),
        tokens=24576,
        lr=8e-5,
        steps=500_000,
        warmup_steps=5000,
        ema_decay=0.9999,
        is_checkpointed=True,
    )


def fourteen_b() -> FitConfig:
    """14 B parameters: 33 blocks of width 5120."""
    return _sized(
        *("14b", 5120, 33),
        tokens=24576,
        packs_per_step=8,
        lr=5e-5,
        steps=500_000,
        warmup_steps=10_000,
        ema_decay=0.9999,
        is_checkpointed=True,
    )


PRESETS: dict[str, Callable[[], FitConfig]] = {
    "tiny": tiny,
    "small": small,
    "base": base,
    "large": large,
    "xl": xl,
    "3b": three_b,
    "14b": fourteen_b,
}


def preset(name: str, **overrides: Any) -> FitConfig:
    """A preset with fields replaced; None leaves the preset's value."""
    return replace(PRESETS[name](), **{key: value for key, value in overrides.items() if value is not None})
