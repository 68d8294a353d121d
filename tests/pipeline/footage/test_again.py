"""What failed is listed again with all that was said of it, and nothing that is gone stops the rest."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from manifests.layout import Dataset
from manifests.tables import scans
from manifests.writing.removing import remove
from media.decode.images import to_rgb
from media.decode.probe import probe
from media.errors import MediaError
from pipeline.config import PlanConfig
from pipeline.footage.found import to_json
from pipeline.footage.sources import Found, list_sources, listed_again, source_row
from pipeline.plan import make_plan


def probing(files):
    return [source_row(file) for file in files]


def latest(dataset):
    return {row["uri"]: row for row in scans.table(dataset, "sources").to_pylist()}


def picture(path, shade=90):
    Image.new("RGB", (32, 24), (shade, 20, 200)).save(path)


def again(dataset):
    failed = [row for row in latest(dataset).values() if row["status"] == "failed"]
    found = listed_again(failed)
    opened = sorted({row["uri"] for row in failed} - {item.uri for item in found})
    return make_plan(dataset, found, PlanConfig(), probing, retries_failed=True, opened=opened)


def test_captions_and_licences_of_a_list_stay_with_what_is_tried_again(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    listed = tmp_path / "list.csv"
    listed.write_text("file,caption,licence\na.png,a red ball,MIT\nb.png,a blue ball,CC0\n")
    picture(tmp_path / "a.png")
    make_plan(dataset, list_sources([str(listed)]), PlanConfig(), probing)
    late = str(tmp_path / "b.png")
    assert latest(dataset)[late]["status"] == "failed"
    picture(late, 10)
    again(dataset)
    row = latest(dataset)[late]
    assert (row["status"], row["alt"], row["licence"]) == ("kept", "a blue ball", "CC0")


def test_one_that_is_gone_stops_no_other(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "cut.txt").write_text("a green star")
    make_plan(dataset, list_sources([str(folder)]), PlanConfig(), probing)
    picture(folder / "cut.png")
    again(dataset)
    rows = latest(dataset)
    assert rows[str(folder / "cut.png")]["status"] == "kept"
    assert rows[str(folder / "cut.png")]["alt"] == "a green star"
    assert rows[str(folder / "dangling.mp4")]["status"] == "failed"


def test_a_mended_tar_is_failed_no_more(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    path = tmp_path / "some.tar"
    path.write_bytes(b"no tar")
    make_plan(dataset, list_sources([str(path)]), PlanConfig(), probing)
    assert latest(dataset)[str(path)]["status"] == "failed"
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a purple box")
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        tar.add(tmp_path / "a.txt", "a.txt")
    again(dataset)
    rows = latest(dataset)
    assert (rows[str(path)]["status"], rows[str(path)]["reason"]) == ("dropped", "opened")
    assert rows[f"{path}#a.png"]["status"] == "kept" and rows[f"{path}#a.png"]["alt"] == "a purple box"
    assert again(dataset) == []


def test_a_name_that_is_no_text_is_planned_once(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    (tmp_path / "in").mkdir()
    folder = os.fsencode(tmp_path / "in")
    with open(folder + b"/bad\xff.png", "wb") as file:
        file.write(b"x")
    for _ in range(3):
        make_plan(dataset, list_sources([os.fsdecode(folder)]), PlanConfig(), probing)
    assert len(dataset.generations()) == 1


def test_what_was_taken_down_unread_is_not_taken_in_when_it_can_be_read(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    path = tmp_path / "late.png"
    make_plan(dataset, [Found(str(path))], PlanConfig(), probing)
    [row] = latest(dataset).values()
    remove(dataset, {row["source_id"]: row["uri"]})
    picture(path)
    make_plan(dataset, [Found(str(path))], PlanConfig(), probing)
    [row] = [row for row in latest(dataset).values() if row["uri"] == str(path)]
    assert (row["status"], row["reason"]) == ("dropped", "removed")


def test_sidecars_and_lists_of_odd_numbers_and_depths_spoil_nothing(tmp_path):
    picture(tmp_path / "a.png")
    long = "1" + "0" * 400
    first = f'{{"start_s": 0, "end_s": {long}, "kind": "dense", "text": "t"}}'
    second = '{"start_s": 0, "end_s": 1, "kind": "detailed", "text": "t"}'
    (tmp_path / "a.json").write_text(f'{{"captions": [{first}, {second}]}}')
    [found] = list_sources([str(tmp_path / "a.png")])
    row = source_row(found)
    assert row["status"] == "kept" and json.loads(row["timed_captions_json"]) == []
    assert "end_s" in row["detail"] and "detailed" in row["detail"]
    deep = json.loads("[" * 600 + "]" * 600)
    assert len(json.dumps(to_json(deep))) < 1000
    folder = tmp_path
    for number in range(60):
        folder = folder / f"d{number}"
    folder.mkdir(parents=True)
    picture(folder / "b.png")
    assert str(folder / "b.png") in [item.uri for item in list_sources([str(tmp_path)])]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0.0, np.nan, 255.0]], np.float32), [0, 0, 255]),
    ],
)
def test_deep_grey_is_read_by_its_range(values, expected):
    assert to_rgb(Image.fromarray(values), 3, 1)[0, :, 0].tolist() == expected


def test_grey_of_no_known_range_is_refused():
    with pytest.raises(ValueError, match="no known range"):
        to_rgb(Image.fromarray(np.array([[-3.0, 1e9]], np.float32)), 2, 1)


def test_an_archive_is_called_one(tmp_path):
    """Whatever its name says; FFmpeg takes some for sound."""
    (tmp_path / "a.txt").write_text("x" * 5000)
    made = []
    for kind in ("zip", "gztar", "bztar", "xztar"):
        made.append(shutil.make_archive(str(tmp_path / "out" / kind), kind, tmp_path, "a.txt"))
    shutil.copy(made[0], tmp_path / "out" / "video.mp4")
    for path in sorted((tmp_path / "out").iterdir()):
        with pytest.raises(MediaError, match="packed archive") as told:
            probe(str(path))
        assert told.value.reason == "archive", path
