"""Named sizes of a training run. A preset is a function that returns settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trainer.config import FitConfig, ModelConfig


def tiny() -> FitConfig:
    """4 M parameters: learns on two CPU cores in minutes."""
    return FitConfig(preset="tiny")


def small() -> FitConfig:
    """DiT-S: 12 blocks of width 384."""
    return FitConfig(
        preset="small",
        model=ModelConfig(width=384, depth=12, num_heads=6),
        tokens=16384,
        lr=4e-4,
        steps=100_000,
        warmup_steps=1000,
    )


def base() -> FitConfig:
    """DiT-B: 12 blocks of width 768."""
    return FitConfig(
        preset="base",
        model=ModelConfig(width=768, depth=12, num_heads=12),
        tokens=32768,
        lr=2e-4,
        steps=200_000,
        warmup_steps=2000,
    )


def large() -> FitConfig:
    """DiT-L: 24 blocks of width 1024."""
    return FitConfig(
        preset="large",
        model=ModelConfig(width=1024, depth=24, num_heads=16),
        tokens=65536,
        lr=1.5e-4,
        steps=300_000,
        warmup_steps=3000,
    )


def xl() -> FitConfig:
    """DiT-XL: 28 blocks of width 1152."""
    return FitConfig(
        preset="xl",
        model=ModelConfig(width=1152, depth=28, num_heads=16),
        tokens=65536,
        lr=1e-4,
        steps=400_000,
        warmup_steps=5000,
    )


def three_b() -> FitConfig:
    """3 B parameters: 28 blocks of width 2560."""
    model = ModelConfig(width=2560, depth=28, num_heads=20)
    return FitConfig(
        preset="3b",
        model=model,
        tokens=65536,
        lr=8e-5,
        steps=500_000,
        warmup_steps=5000,
        is_bf16=True,
        is_checkpointed=True,
        is_compiled=True,
    )


def fourteen_b() -> FitConfig:
    """14 B parameters: 33 blocks of width 5120."""
    model = ModelConfig(width=5120, depth=33, num_heads=40)
    return FitConfig(
        preset="14b",
        model=model,
        tokens=131_072,
        lr=5e-5,
        steps=500_000,
        warmup_steps=10_000,
        is_bf16=True,
        is_checkpointed=True,
        is_compiled=True,
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
