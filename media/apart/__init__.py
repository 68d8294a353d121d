"""Decoding in a process apart, which may read and compute and nothing else."""
