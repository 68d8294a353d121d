"""What the captions of a training say of light, camera and style: prompts are filled up by it later."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from captioner.language.upsample import PhraseUpsampler
from manifests.layout import Dataset
from manifests.tables import records
from manifests.views import View

MOST_SHARDS, MOST_CAPTIONS = 16, 4096


def phrases_of(dataset: Dataset, view: View) -> dict[str, Any]:
    """The usual phrases of a view's dense captions, of its first shards, for `PhraseUpsampler.of`."""
    return PhraseUpsampler.fit(itertools.islice(_dense(dataset, view), MOST_CAPTIONS)).to_json()


def _dense(dataset: Dataset, view: View) -> Iterator[str]:
    if (column := view.columns.get("caption")) is None:
        return
    for shard in sorted(dataset.committed_shards(column))[:MOST_SHARDS]:
        for row in records.rows_of_shard(dataset, "captions", column, shard):
            if row["kind"] == "dense" and row["status"] == "accepted" and row["text"]:
                yield row["text"]
