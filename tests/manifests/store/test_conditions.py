"""A store that does not heed conditions is refused before anything is written to it."""

import errno
import os
from pathlib import Path

import pytest

from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.writing.lease import FILE, TRIAL, Lease


@pytest.mark.parametrize("careless", ["heeds", "matches"])
def test_a_careless_store_is_refused_by_a_writer(served, careless):
    address, kind = served(**{careless: False})
    dataset = Dataset.create(address)
    with pytest.raises((RushesError, OSError), match="writes over what is there"), Lease(dataset):
        pass
    assert {name.rpartition("/")[2] for name in kind.objects} == {"dataset.json", TRIAL}


@pytest.mark.parametrize("traits", [{}, {"deletes": False}])
def test_one_that_heeds_them_is_taken_also_where_nothing_may_be_deleted_or_an_answer_is_lost(served, traits):
    address, kind = served(**traits)
    dataset = Dataset.create(address)
    kind.lost_answers = 1
    for _ in range(2):
        storage.check_conditions(Dataset(address).filesystem, dataset.path(TRIAL))
    with Lease(dataset):
        pass
    assert {name.rpartition("/")[2] for name in kind.objects} == {"dataset.json", TRIAL, FILE}


def test_an_object_that_is_seen_late_is_not_another_writers_nor_an_error(served):
    address, kind = served()
    dataset = Dataset.create(address)
    assert storage.create_bytes(dataset.filesystem, dataset.path("a"), b"mine")
    kind.late_reads = 2
    assert storage.create_bytes(dataset.filesystem, dataset.path("a"), b"mine")
    assert not storage.create_bytes(dataset.filesystem, dataset.path("a"), b"another's")


def test_on_a_disk_without_links_a_record_is_whole_or_not_there(tmp_path, monkeypatch):
    dataset = Dataset.create(str(tmp_path / "ds"))

    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = dataset.path("a")
    with monkeypatch.context() as dying:  # the writer dies before the file has its name
        dying.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            storage.create_bytes(dataset.filesystem, path, b"mine")
    assert not Path(path).exists()
    assert storage.create_bytes(dataset.filesystem, path, b"mine")
    assert not storage.create_bytes(dataset.filesystem, path, b"another's")
    assert Path(path).read_bytes() == b"mine"
