"""The spacetime VAE: video of any shape to a compact latent and back, exactly as large as it was.

An image is a one-frame video.
"""
