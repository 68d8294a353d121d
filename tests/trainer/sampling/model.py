"""The oracle in a model's place: one token a latent frame, `COUNT` independent videos as its channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.trainer.sampling import oracle
from trainer.config import FlowConfig
from trainer.sampling.canvas import Canvas

CANVAS = Canvas(num_frames=1 + 4 * (oracle.FRAMES - 1), height_px=8, width_px=8)
"""Of exactly `oracle.FRAMES` latents."""


class OracleModel:
    """Stands for a `TrainedModel`. A text [1, 1] is the mean of the videos it describes."""

    def __init__(self, channels: int = oracle.COUNT, **flow: Any) -> None:
        self.flow = FlowConfig(condition_sigma=0.0, **flow)
        self.factors, self.patch, self.text_width = (4, 8, 8), (1, 1, 1), 1
        self.mean, self.std = torch.zeros(channels), torch.ones(channels)
        self.device = torch.device("cpu")
        self.calls = 0
        self.sequences = 0

    def predict(
        self,
        x: Tensor,
        sigma: Tensor,
        known: Tensor,
        coords: Tensor,
        cu: Tensor,
        text: Tensor,
        text_cu: Tensor,
    ) -> Tensor:
        assert bool((sigma[known] == 0).all())
        self.calls += 1
        self.sequences += len(cu) - 1
        lengths = cu.diff().tolist()
        means = text[text_cu[:-1], 0]
        parts = zip(x.split(lengths), sigma.split(lengths), means, strict=True)
        return torch.cat([oracle.velocity(part, level, float(mean)) for part, level, mean in parts])
