"""The trainer: packs of native shapes, a diffusion transformer on spacetime patches, rectified flow,
sampling. Reads manifests, never the pipeline.
"""
