"""Validation keeps to the budget, and never compares a caption with itself."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from trainer.data.catalogue.catalog import load_catalog, views_of
from trainer.data.loader import PackReader
from trainer.data.samples import Sample
from trainer.presets import preset
from trainer.reports.validation import texts_of, validation_packs, with_other_texts, within

TEST = dataclasses.replace(preset("tiny"), tokens=96, held_out=0.4, is_tensorboard=False)


def ranks(rank=0, size=1):
    return SimpleNamespace(data_rank=rank, data_size=size, is_first=rank == 0, sequence=None, sum=lambda x: x)


@pytest.fixture(scope="module")
def reader(dataset):
    catalog = load_catalog(dataset, views_of(dataset, "default", TEST), TEST)
    return PackReader(dataset, catalog, TEST)


@pytest.mark.parametrize("size", [(1, 3, 4), (9, 8, 8), (5, 60, 104), (1, 1, 400), (3, 17, 5)])
@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (1, 1, 1)])
def test_no_sample_is_over_the_budget_whatever_its_frame(size, patch):
    shown = within(Sample("a", 0, *size), patch, 96)
    assert 0 < shown.tokens(patch) <= 96
    assert shown.top + shown.latent_h <= size[1] and shown.left + shown.latent_w <= size[2]
    small = Sample("a", 0, 1, 4, 4)
    assert within(small, patch, 96) == small


def test_other_captions_are_others_for_any_number_of_processes(reader):
    samples = reader.catalog.held_out
    alone = validation_packs(reader, samples, ranks())
    assert len(samples) > 4 and len(alone.packs) > 3
    for pack, other in zip(alone.packs, alone.others, strict=True):
        assert pack.num_tokens <= TEST.tokens
        for own, said in zip(texts_of(pack), texts_of(other), strict=True):
            assert own.shape != said.shape or not torch.equal(own, said)
    split = [validation_packs(reader, samples, ranks(rank, 3)) for rank in range(3)]
    for index, (pack, other) in enumerate(zip(alone.packs, alone.others, strict=True)):
        mine = split[index % 3]
        assert torch.equal(mine.packs[index // 3].text, pack.text)
        assert torch.equal(mine.others[index // 3].text, other.text)


def test_equal_captions_are_passed_over_and_a_lonely_one_is_compared_with_none(reader):
    [pack, *_] = validation_packs(reader, reader.catalog.held_out[:2], ranks()).packs
    [text, *_] = texts_of(pack)
    twins = dataclasses.replace(
        pack, text=torch.cat([text, text]), text_cu=torch.tensor([0, len(text), 2 * len(text)])
    )
    assert not with_other_texts(twins, [text]).text.any()
    other = text + 1
    found = with_other_texts(twins, [text, other])
    assert all(torch.equal(said, other) for said in texts_of(found))
