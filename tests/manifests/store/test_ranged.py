"""Objects are read with few requests, and a store's bad moments and odd names are borne or named."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from manifests.errors import UsageError
from manifests.store import ranged, storage
from tests.conftest import ROOT


@pytest.mark.parametrize("size", [0, 1, 1000, 5000])
def test_an_object_is_read_as_its_bytes_and_a_small_one_by_one_request(served, monkeypatch, size):
    monkeypatch.setattr(ranged, "TAIL_BYTES", 1000)
    address, kind = served()
    (store, root), data = storage.resolve(address), random.Random(1).randbytes(size)
    path = f"{root}/a"
    storage.write_bytes(store, path, data)
    assert storage.read_bytes(store, path) == data
    assert len(kind.asked) == 1
    del kind.asked[:]
    with store.open_input_file(path) as file:
        assert file.size() == size
        for begin, length in ((0, 10), (max(0, size - 10), 10), (size // 2, size), (size - size // 4, 7)):
            assert bytes(file.read_at(length, begin)) == data[begin : begin + length]
        file.seek(0)
        assert file.read() == data
    if 0 < size <= 1000:
        assert len(kind.asked) == 1


def test_a_list_whose_answer_is_cut_is_asked_for_again(served, monkeypatch):
    monkeypatch.setattr(ranged.time, "sleep", lambda seconds: None)
    address, kind = served(cut_lists=3)
    store, root = storage.resolve(address)
    storage.write_bytes(store, f"{root}/x/a", b"1")
    assert [info.base_name for info in storage.list_files(store, f"{root}/x")] == ["a"]
    assert kind.cut_lists == 0
    kind.cut_lists = 99
    with pytest.raises(OSError, match="response body"):
        storage.list_files(store, f"{root}/x")


@pytest.mark.parametrize(
    "address", ["s3://b/run#1", "s3://b/x#y/ds", "s3://b/a//c", "s3://b/a/../c", "s3://b/./c"]
)
def test_addresses_that_a_store_cannot_name_are_refused(address):
    with pytest.raises(UsageError, match="cannot be opened"):
        storage.resolve(address)


def test_names_with_marks_are_kept_where_they_are_spelled_out():
    assert storage.resolve("s3://b/run%231/a%2Bb/")[1] == "b/run#1/a+b"


LEAVING = """
import atexit, sys
import manifests.store.objects
import manifests.cli, rushes
class Late:
    def __del__(self):
        print("late")
held = [Late()]
def run():
    atexit.register(print, "at exit")
    print("done")
    return 3
manifests.cli.main = run
sys.exit(rushes.main())
"""


def test_a_program_that_read_a_store_ends_at_once_with_its_code_and_all_it_said():
    """Arrow's threads let go of Python's files late, and would abort it."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\nat exit\n", "")
