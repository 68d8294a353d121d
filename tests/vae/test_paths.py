"""A list of files that are held out names them, or is refused."""

from __future__ import annotations

import pytest

from manifests.errors import UsageError
from vae.verbs.paths import names_in_list


@pytest.fixture
def footage(tmp_path):
    folder = tmp_path / "footage"
    (folder / "sub dir").mkdir(parents=True)
    for name in ("a.mp4", "sub dir/b.mp4"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("text", ["a.mp4\nsub dir/b.mp4\n", "  a.mp4 \r\n./sub dir/b.mp4\n# no file\n\n"])
def test_names_are_those_below_the_folder_however_they_are_written(footage, tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    assert names_in_list(tmp_path / "list.txt", footage) == {"a.mp4", "sub dir/b.mp4"}


def test_whole_paths_and_links_are_names_too(footage, tmp_path):
    (tmp_path / "other").symlink_to(footage)
    (tmp_path / "list.txt").write_text(f"{footage}/a.mp4\n{tmp_path}/other/sub dir/b.mp4\n")
    for folder in (footage, tmp_path / "other"):
        assert names_in_list(tmp_path / "list.txt", folder) == {"a.mp4", "sub dir/b.mp4"}


def test_a_link_below_the_folder_and_a_name_that_begins_as_a_comment_are_files(footage, tmp_path):
    (tmp_path / "far.mp4").touch()
    (footage / "link.mp4").symlink_to(tmp_path / "far.mp4")
    (footage / "#1 take.mp4").touch()
    (tmp_path / "list.txt").write_text("link.mp4\n#1 take.mp4\n# words\n")
    assert names_in_list(tmp_path / "list.txt", footage) == {"link.mp4", "#1 take.mp4"}


@pytest.mark.parametrize("name", ["x" * 300, "c.mp4", "A.MP4", "../list.txt", "sub dir"])
def test_a_name_that_is_none_is_refused(footage, tmp_path, name):
    (tmp_path / "list.txt").write_text(f"a.mp4\n{name}\n")
    with pytest.raises(UsageError, match="names 1 files that are not in"):
        names_in_list(tmp_path / "list.txt", footage)
