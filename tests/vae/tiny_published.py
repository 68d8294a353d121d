"""Tiny random models of the real diffusers classes, in diffusers' own layout on disk."""

from pathlib import Path

import diffusers
import torch

TINY = {
    "wan21": (
        "AutoencoderKLWan",
        {
            "base_dim": 8,
            "z_dim": 4,
            "dim_mult": [1, 2, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
            "latents_mean": [0.0] * 4,
            "latents_std": [1.0] * 4,
        },
    ),
    "wan22": (
        "AutoencoderKLWan",
        {
            "base_dim": 8,
            "decoder_base_dim": 8,
            "z_dim": 6,
            "dim_mult": [1, 2, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 6,
            "latents_std": [1.0] * 6,
        },
    ),
    "ltx": (
        "AutoencoderKLLTXVideo",
        {
            "latent_channels": 8,
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
        },
    ),
    "hunyuan15": (
        "AutoencoderKLHunyuanVideo15",
        {"latent_channels": 4, "block_out_channels": (32, 32, 32, 32, 32), "layers_per_block": 1},
    ),
    "cosmos": (
        "AutoencoderKLCosmos",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (8, 8, 8, 8),
            "decode_block_out_channels": (8, 8, 8, 8),
            "attention_resolutions": (8,),
            "resolution": 64,
            "num_layers": 1,
            "latents_mean": None,
            "latents_std": None,
        },
    ),
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
    ),
    "hunyuan": (
        "AutoencoderKLHunyuanVideo",
        {
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
    ),
}


def save_tiny(name: str, folder: Path) -> Path:
    """Write the model `name` of `TINY` into `folder`."""
    kind, settings = TINY[name]
    torch.manual_seed(0)
    getattr(diffusers, kind)(**settings).save_pretrained(folder)
    return folder
