"""A latent that is not finite costs itself, by its name; such statistics end a run before its start."""

from __future__ import annotations

import dataclasses

import pytest

from manifests.errors import IntegrityError
from manifests.views import View
from trainer.data.catalogue import catalog as cataloguing
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.loader import PackReader
from trainer.data.samples import Sample
from trainer.presets import preset

CONFIG = dataclasses.replace(preset("tiny"), tokens=64, is_tensorboard=False)


def test_a_latent_that_is_not_finite_is_left_out_of_its_pack(dataset, capsys):
    catalog = load_catalog(dataset, [View.load(dataset)], CONFIG)
    reader = PackReader(dataset, catalog, CONFIG)
    samples = [
        Sample(name, row["shard"], row["latent_t"], row["latent_h"], row["latent_w"])
        for name, row in list(catalog.clips.items())[:2]
    ]
    whole, bad = reader.stored, samples[0].clip_id

    def stored(sample):
        mean, logvar = whole(sample)
        if sample.clip_id == bad:
            mean.view(-1)[3] = float("nan")
        return mean, logvar

    reader.stored = stored
    pack = reader.read(samples, 0)
    assert pack.corrupt == [bad] and len(pack.members) == 1
    assert bad in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_named_before_a_step(dataset, monkeypatch, value):
    whole = cataloguing.corpus_stats

    def stats(*given):
        found = whole(*given)
        return found | {"std": [value, *found["std"][1:]]}

    monkeypatch.setattr(cataloguing, "corpus_stats", stats)
    with pytest.raises(IntegrityError, match="statistics that are not finite"):
        load_catalog(dataset, [View.load(dataset)], CONFIG)
