"""Manifests: the dataset on disk. Arrow schemas, layout, commit protocol, tar shards, verify, views and
queries.

This package is the only contract between the pipeline that writes a dataset and the trainer and dashboard
that read it. It imports neither torch nor ray, and no other package of the project.
"""

from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.layout import Column, Dataset

__all__ = ["Column", "Dataset", "IntegrityError", "RushesError", "UsageError"]
