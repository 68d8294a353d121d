"""What a class of diffusers compresses, by its configuration."""

from __future__ import annotations

from typing import Any

from manifests.errors import UsageError
from vae.grid import Factors


def factors_of(model: Any) -> Factors:
    """(f_t, f_h, f_w) of a model, from its configuration, whose names differ by class."""
    config, name = model.config, type(model).__name__
    if name == "AutoencoderKLWan":
        halvings = len(config.dim_mult) - 1
        time = 2 ** sum(config.temperal_downsample)
        if time != 4:  # diffusers cuts groups of four whatever the configuration says
            raise UsageError(
                name,
                f"compresses time {time} times, which diffusers' code cannot do",
                "Its groups are of four frames.",
            )
        return time, 2**halvings * (config.patch_size or 1), 2**halvings * (config.patch_size or 1)
    if name == "AutoencoderKLLTXVideo":
        space, time = model.spatial_compression_ratio, model.temporal_compression_ratio
    elif name == "AutoencoderKLCogVideoX":
        space, time = 2 ** (len(config.block_out_channels) - 1), int(config.temporal_compression_ratio)
    else:
        space, time = int(config.spatial_compression_ratio), int(config.temporal_compression_ratio)
    return int(time), int(space), int(space)
