"""A latent or a text that is not finite costs itself, by its name; such statistics let no run begin."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from manifests.errors import IntegrityError
from manifests.layout import Column
from manifests.views import View
from pipeline.config import TextConfig
from pipeline.stages.journal import Journal
from pipeline.stages.text import Failure, TextStage
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


def test_an_embedding_that_is_not_finite_is_left_out_of_its_pack(dataset, capsys):
    """Its step would be refused, and with it all that the step had read."""
    config = dataclasses.replace(CONFIG, flow=dataclasses.replace(CONFIG.flow, text_dropout=0.0))
    catalog = load_catalog(dataset, [View.load(dataset)], config)
    reader = PackReader(dataset, catalog, config)
    samples = [
        Sample(name, row["shard"], row["latent_t"], row["latent_h"], row["latent_w"])
        for name, row in list(catalog.clips.items())[:2]
    ]
    whole, bad = reader.embedding, samples[1].clip_id

    def embedding(sample, caption_id):
        found = whole(sample, caption_id)
        return found.fill_(float("inf")) if sample.clip_id == bad else found

    reader.embedding = embedding
    pack = reader.read(samples, 0)
    assert pack.corrupt == [bad] and len(pack.members) == 1
    assert f"clip {bad}" in capsys.readouterr().err


def test_a_text_whose_embedding_is_not_finite_fails_at_ingest_and_its_neighbours_do_not(copy):
    stage = TextStage(TextConfig(), Column("caption", "a"), Column("preview", "b"))

    class Encoder:
        def encode(self, texts):
            return [torch.full((2, 4), float("nan") if "bad" in text else 1.0) for text in texts]

    stage.encoder = Encoder()
    clips = {"one": ["good"], "two": ["good", "a bad one"], "three": ["fine"]}
    found = stage._encode(clips, Journal(copy, "a-run", stage.column, 0))
    assert set(found["one"]) == {"good"} and set(found["three"]) == {"fine"}
    assert isinstance(found["two"], Failure) and "'a bad one' is not finite" in found["two"].cause
