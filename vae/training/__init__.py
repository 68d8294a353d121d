"""Training the VAE from clips of any shape."""
