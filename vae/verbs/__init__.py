"""Verbs of the VAE."""
