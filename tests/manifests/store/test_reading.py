import os
import shutil
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from manifests.errors import IntegrityError, UsageError
from manifests.store import storage
from manifests.store.reading import OPEN_TARS, MemberReader, RangeCache
from manifests.store.shards import TarWriter, read_member


def write(path, parts):
    with TarWriter(path) as tar:
        for index, data in enumerate(parts):
            tar.add(f"clip{index:03d}.data.bin", data)
    return tar.members


@pytest.fixture
def remote(tmp_path):
    """A filesystem that is not the local one, and a tar on it with its members."""
    (tmp_path / "store").mkdir()
    members = write(tmp_path / "store" / "a.tar", [bytes([index]) * 1000 for index in range(8)])
    return fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem()), members


@given(parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=6))
@settings(max_examples=30)
def test_a_view_is_what_the_plain_way_reads(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    members, local = write(path, parts), fs.LocalFileSystem()
    reader = MemberReader(local)
    for member in [*members, *reversed(members)]:
        assert reader.view(str(path), member).tobytes() == read_member(local, str(path), member)


def test_threads_do_not_share_memory_and_tars_are_closed(tmp_path):
    paths = [tmp_path / f"{index}.tar" for index in range(OPEN_TARS + 8)]
    members = [write(path, [bytes([index]) * 5000]) for index, path in enumerate(paths)]
    reader, wrong = MemberReader(fs.LocalFileSystem()), []

    def read(own):
        for _ in range(30):
            for index, path in enumerate(paths):
                view = reader.view(str(path), members[index][0])
                if not (view == index).all():
                    wrong.append((own, index))
        if len(reader._own.tars) > OPEN_TARS:
            wrong.append("too many open tars")

    threads = [threading.Thread(target=read, args=(own,)) for own in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "a.tar"
    [_, member] = write(path, [b"x" * 900, b"y" * 900])
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[member.offset + 5] ^= 1
    path.write_bytes(data if damage == "flip" else data[: member.offset + 10])
    with pytest.raises(IntegrityError, match=r"clip001.*(changed|cut)"):
        MemberReader(fs.LocalFileSystem()).view(str(path), member)


def test_ranges_of_a_store_are_fetched_once_and_bad_copies_anew(remote, tmp_path):
    filesystem, members = remote
    reader = MemberReader(filesystem, RangeCache(tmp_path / "cache", 1 << 20))
    assert reader.view("a.tar", members[3]).tobytes() == b"\3" * 1000
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_bytes(b"?" * 1000)  # this machine's disk lies
    assert reader.view("a.tar", members[3]).tobytes() == b"\3" * 1000
    assert kept.read_bytes() == b"\3" * 1000
    shutil.rmtree(tmp_path / "store")
    assert (
        MemberReader(filesystem, RangeCache(tmp_path / "cache", 1 << 20)).view("a.tar", members[3]).tobytes()
        == b"\3" * 1000
    )
    with pytest.raises(OSError, match=r"a\.tar"):
        reader.view("a.tar", members[4])


def test_the_cache_keeps_to_its_size_and_to_its_own_files(remote, tmp_path):
    filesystem, members = remote
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    reader = MemberReader(filesystem, RangeCache(tmp_path / "cache", 3500))
    for member in members[:3]:
        reader.view("a.tar", member)
    reader.view("a.tar", members[0])  # used again: now the youngest
    for member in members[3:5]:
        reader.view("a.tar", member)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"notes.txt", *(RangeCache.name("a.tar", members[index]) for index in (0, 3, 4))}


def test_a_full_disk_costs_the_cache_and_not_the_data(tmp_path, remote, monkeypatch, capsys):
    filesystem, members = remote

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    reader = MemberReader(filesystem, RangeCache(tmp_path / "cache", 1 << 20))
    for member in members[:2]:
        assert reader.view("a.tar", member).tobytes() == read_member(filesystem, "a.tar", member)
    assert capsys.readouterr().err.count("No space left") == 1
    assert not list((tmp_path / "cache").iterdir())


def test_a_store_that_fails_is_asked_again_and_what_a_killed_process_left_is_swept(
    tmp_path, remote, monkeypatch
):
    filesystem, members = remote
    real, answers = storage.read_range, iter([OSError("reset"), OSError("reset"), None])

    def flaky(*arguments):
        if error := next(answers):
            raise error
        return real(*arguments)

    monkeypatch.setattr("manifests.store.storage.read_range", flaky)
    monkeypatch.setattr("manifests.store.reading.PAUSE_S", 0.0)
    (tmp_path / "cache").mkdir()
    name = RangeCache.name("a.tar", members[0])
    left, own = tmp_path / "cache" / f".{name}.0123abcd.tmp", tmp_path / "cache" / "notes.tmp"
    for path in (left, own):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    cache = RangeCache(tmp_path / "cache", 1 << 20)
    assert own.exists()
    assert not left.exists()
    assert MemberReader(filesystem, cache).view("a.tar", members[0]).tobytes() == b"\0" * 1000


@pytest.mark.parametrize("address", ["s3:", "s3:/bucket/run", "gs:/bucket"])
def test_an_address_with_a_slash_too_few_is_no_folder(address):
    with pytest.raises(UsageError, match="two slashes"):
        storage.resolve(address)
