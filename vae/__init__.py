"""The spacetime VAE: video of any shape to a compact latent and back, exactly as large as it was. An image is
a one-frame video.
"""

from vae.checkpoint import load_own, load_vae
from vae.folder import DEFAULT_WEIGHTS, weights_digest
from vae.grid import Extent, Latent, latent_size, validity
from vae.network.model import CausalVAE, VAEConfig
from vae.protocol import VAE

__all__ = [
    "DEFAULT_WEIGHTS",
    "VAE",
    "CausalVAE",
    "Extent",
    "Latent",
    "VAEConfig",
    "latent_size",
    "load_own",
    "load_vae",
    "validity",
    "weights_digest",
]
