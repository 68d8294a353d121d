"""The loader plans in a thread of its own, makes its own samples alone, and has many reads under way."""

import dataclasses
import itertools
import threading
import time

import pytest
import torch

from manifests.store.reading import MemberReader
from trainer.data.ahead import Ahead
from trainer.data.catalogue.catalog import load_catalog, views_of
from trainer.data.curriculum import Curriculum, stages_of
from trainer.data.loader import Loader, PackReader
from trainer.data.packs import EpochPlan
from trainer.presets import preset

TEST = dataclasses.replace(preset("tiny"), tokens=512, packs_per_step=4, is_tensorboard=False)
LATENCY_S = 0.03


@pytest.fixture(scope="module")
def reader(dataset):
    catalog = load_catalog(dataset, views_of(dataset, "default", TEST), TEST)
    return PackReader(dataset, catalog, TEST)


def loader(reader, rank=0, size=1, **options):
    catalog = reader.catalog
    return Loader(
        reader, Curriculum(stages_of(catalog.table, TEST, catalog.factors[0])), rank, size, **options
    )


def taken(made, count):
    steps = made.steps_from(0)
    found = list(itertools.islice(steps, count))
    steps.close()
    return found


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("clean", "coords", "text", "cu")
    )


def test_packs_do_not_depend_on_how_many_reads_are_under_way(reader):
    plain, wide = taken(loader(reader, reads=1, threads=1, ahead=1), 6), taken(loader(reader, reads=16), 6)
    for (step, epoch, packs), (step2, epoch2, packs2) in zip(plain, wide, strict=True):
        assert (step, epoch) == (step2, epoch2)
        assert all(same(one, other) for one, other in zip(packs, packs2, strict=True))


def test_ranks_make_their_own_samples_alone_and_all_of_them_together(reader, monkeypatch):
    alone = taken(loader(reader), 3)
    parts = [taken(loader(reader, rank, 2), 3) for rank in range(2)]
    for step in range(3):
        held = {pack.samples[0].clip_id: pack for part in parts for pack in part[step][2] if pack.samples}
        for pack in alone[step][2]:
            if pack.samples:
                assert same(pack, held[pack.samples[0].clip_id])
    made, real = [], EpochPlan.sample
    monkeypatch.setattr(EpochPlan, "sample", lambda self, index: made.append(index) or real(self, index))
    _, [pack] = loader(reader).plan.at(0, lambda packs: packs[1:2])
    assert len(made) == len(pack) == len(alone[0][2][1].samples)


def test_the_training_thread_plans_nothing(reader, monkeypatch):
    threads, real = set(), Curriculum.at
    monkeypatch.setattr(
        Curriculum, "at", lambda self, *own: threads.add(threading.current_thread().name) or real(self, *own)
    )
    taken(loader(reader), 3)
    assert threads == {"ahead"}
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"], "it ends with the loop"


def test_reads_that_take_long_are_under_way_at_once(reader, monkeypatch):
    count, real = [], MemberReader.view

    def slow(self, path, member):
        count.append(1)
        time.sleep(LATENCY_S)
        return real(self, path, member)

    monkeypatch.setattr(MemberReader, "view", slow)
    begin = time.monotonic()
    taken(loader(reader, reads=48), 6)
    assert time.monotonic() - begin < len(count) * LATENCY_S / 4


def test_an_error_of_planning_comes_where_its_step_would(reader):
    def broken():
        yield 1
        raise ValueError("broken plan")

    with Ahead(broken(), 2) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken plan"):
            next(items)
    with Ahead(iter([1, 2]), 1) as items:
        assert list(items) == [1, 2]
    with Ahead(itertools.count(), 2) as items:
        assert next(items) == 0
