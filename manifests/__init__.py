"""Manifests: the dataset on disk. Arrow schemas, layout, commit protocol, tar shards, verify, views, queries.

This package is the only contract between the pipeline that writes a dataset and the trainer and dashboard
that read it. It imports neither torch nor ray, and no other package of the project.
"""
