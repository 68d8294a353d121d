"""What would halve the time of an ingest."""

from __future__ import annotations

import pytest

from pipeline.config import Resources
from pipeline.engine.estimate import Job, to_halve

LATENT = "1 more actors of latent"


@pytest.mark.parametrize(
    ("jobs", "cpus", "gpus", "words"),
    [
        ([], 8, 0, ""),
        ([Job("latent", 0.0, 2, Resources())], 8, 0, ""),
        # one GPU encodes for ten hours beside CPUs that are idle
        ([Job("latent", 10.0, 1, Resources(num_gpus=1))], 16, 1, f"{LATENT}, 1 GPUs to the cluster"),
        # CPUs are the limit, whatever the actors
        ([Job("preview", 80.0, 8, Resources())], 8, 0, "8 more actors of preview, 8 CPUs to the cluster"),
        # the slowest stage alone
        (
            [Job("preview", 8.0, 8, Resources()), Job("caption", 12.0, 2, Resources(num_cpus=0.2))],
            100,
            0,
            "2 more actors of caption",
        ),
    ],
)
def test_what_to_add(jobs, cpus, gpus, words):
    assert to_halve(jobs, cpus, gpus) == words
