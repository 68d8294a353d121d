"""The layers of the causal VAE, and streaming through them."""
