"""Embeddings: a unit vector per clip, and one that is not finite costs its own clip alone."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.tables import scans
from manifests.verify import verify
from manifests.views import View
from pipeline.stages.embed import Embed
from pipeline.stages.protocol import run_stage
from tests.pipeline.dedup.test_stage import tiny_clip


def test_each_clip_has_a_unit_vector_and_one_that_is_not_finite_is_told(copy, tmp_path):
    preview = View.load(copy).column("preview")
    stage = Embed(tiny_clip(tmp_path / "clip"), preview)
    stage.setup()
    real, hurt = stage.encoder.units, []

    def units(pictures):
        """The first clip's pictures overflow, whoever asks."""
        found = real(pictures)
        same = [own.tobytes() for own in pictures]
        if not hurt:
            hurt.extend(same)
        found[[own in hurt for own in same]] = np.nan
        return found

    stage.encoder.units = units
    for shard in copy.committed_shards(preview):
        run_stage(stage, copy, "test", shard, 0, lambda text: None)
    clips = scans.table(copy, "clips").to_pylist()
    rows = scans.table(copy, "embeddings", stage.column).to_pylist()
    failures = scans.table(copy, "failures", stage.column).to_pylist()
    told = {row["item_id"] for row in failures}
    assert told and all("not finite" in str(row) for row in failures)
    assert {row["clip_id"] for row in rows} == {clip["clip_id"] for clip in clips} - told
    assert [np.linalg.norm(row["vector"]) for row in rows] == pytest.approx([1] * len(rows))
    assert verify(copy, deep=True).problems == []
