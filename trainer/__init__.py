"""The trainer: packs of native shapes, a diffusion transformer, rectified flow, sampling.

It reads manifests, never the pipeline.
"""
