"""Objects are read with few requests, and a store's bad moments and odd names are borne or named."""

from __future__ import annotations

import os
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
    "address", ["s3://b/run#1", "s3://b/x#y/ds", "s3://b/a//c", "s3://b/a/../c", "s3://b/./c", "s3://b//ds"]
)
def test_addresses_that_a_store_cannot_name_are_refused(address):
    with pytest.raises(UsageError, match="cannot be opened"):
        storage.resolve(address)


def test_names_with_marks_are_kept_where_they_are_spelled_out():
    assert storage.resolve("s3://b/run%231/a%2Bb/")[1] == "b/run#1/a+b"


LEAVING = """
import atexit, sys
sys.modules["__main__"].__file__ = "/bin/rushes"
import manifests.cli, rushes
from manifests.store import ranged
class Late:
    def __del__(self):
        print("late")
held = [Late()]
def run():
    atexit.register(print, "at exit")
    print("done")
    ranged.num_opened = int(sys.argv[1])
    return 3
manifests.cli.main = run
code = rushes.main()
sys.exit(code)
"""


@pytest.mark.parametrize(("num_opened", "later"), [(0, "late\n"), (1, "")])
def test_a_program_that_read_a_store_ends_at_once_with_its_code_and_all_it_said(num_opened, later):
    """Arrow's threads let go of Python's files late, and would abort it."""
    command = [sys.executable, "-c", LEAVING, str(num_opened)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"done\nat exit\n{later}", "")


@pytest.mark.parametrize("num_opened", [0, 1])
def test_what_cannot_be_printed_is_told(num_opened):
    command = [sys.executable, "-c", LEAVING, str(num_opened)]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=ROOT, env=usual, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 120 and "No space left on device" in done.stderr


def test_who_calls_main_keeps_an_exit_code_of_its_own():
    program = LEAVING.replace("/bin/rushes", "/bin/mine").replace("sys.exit(code)", "sys.exit(5)")
    done = subprocess.run([sys.executable, "-c", program, "1"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 5
