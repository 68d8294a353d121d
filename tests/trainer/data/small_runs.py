"""Settings of a run of a few steps on a few clips."""

import dataclasses

from trainer.config import ModelConfig
from trainer.presets import preset

TEST = dataclasses.replace(
    preset("tiny"),
    model=ModelConfig(width=48, depth=2, num_heads=2),
    tokens=256,
    held_out=0.15,
    is_tensorboard=False,
)
