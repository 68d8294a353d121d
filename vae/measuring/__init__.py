"""How good a VAE is: distortion, flicker, drift, latent statistics."""
