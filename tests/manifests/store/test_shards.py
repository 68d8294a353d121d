import tarfile

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from manifests.errors import IntegrityError
from manifests.store.shards import Member, TarWriter, read_member

payloads = st.lists(st.binary(max_size=2000), min_size=1, max_size=8)


def write(path, parts):
    with TarWriter(path) as tar:
        for index, data in enumerate(parts):
            tar.add(f"clip{index:03d}.data.bin", data)
    return tar


@given(parts=payloads)
@settings(max_examples=40)
def test_same_members_give_same_bytes_and_index_points_at_payloads(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("tar")
    first, second = write(folder / "a.tar", parts), write(folder / "b.tar", parts)
    data = (folder / "a.tar").read_bytes()
    assert data == (folder / "b.tar").read_bytes()
    assert first.sha256 == second.sha256
    for member, payload in zip(first.members, parts, strict=True):
        assert data[member.offset : member.offset + member.size_bytes] == payload
        assert member.offset % 512 == 0
    with tarfile.open(folder / "a.tar") as tar:
        assert [(info.name, info.mtime, info.size) for info in tar] == [
            (member.name, 0, member.size_bytes) for member in first.members
        ]


def test_plain_webdataset_groups_members_by_clip(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar:
        for clip in ("aa-00000000", "bb-00000010"):
            tar.add(f"{clip}.poster.jpg", b"jpeg")
            tar.add(f"{clip}.clip.json", b"{}")
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["aa-00000000", "bb-00000010"]
    assert set(samples[0]) >= {"poster.jpg", "clip.json"}


def test_names_that_are_no_member_names_are_refused(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add("a.x", b"")
        for name in ("a.x", "noext", "../a.x", "x" * 120 + ".y", "\u00e4.x"):
            with pytest.raises(ValueError, match="tar member name"):
                tar.add(name, b"")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_reading_a_damaged_member_names_it(tmp_path, damage):
    tar = write(tmp_path / "a.tar", [b"x" * 900, b"y" * 900])
    member: Member = tar.members[1]
    data = bytearray((tmp_path / "a.tar").read_bytes())
    if damage == "flip":
        data[member.offset + 5] ^= 1
    else:
        data = data[: member.offset + 10]
    (tmp_path / "a.tar").write_bytes(data)
    assert read_member(fs.LocalFileSystem(), str(tmp_path / "a.tar"), tar.members[0]) == b"x" * 900
    with pytest.raises(IntegrityError, match=r"clip001\.data\.bin"):
        read_member(fs.LocalFileSystem(), str(tmp_path / "a.tar"), member)
