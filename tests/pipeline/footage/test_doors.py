"""What is ours is no footage by whatever door it comes; what describes a file is found by whatever way it was
named; what was planned stays planned."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from captioner.backends.weights import folder_digest
from captioner.gates.answers import fields_text
from manifests.layout import EXPORT_MARK, SHOWCASE_MARK
from manifests.text import holds_secret, shown, without_secrets
from media.bytes.sealed import sealed, unsealed
from pipeline.config import EmbedConfig
from pipeline.footage import places
from pipeline.footage.listing import list_sources
from pipeline.footage.sidecars import sidecar_fields
from pipeline.footage.sources import planned_name, source_row
from pipeline.plan import _first
from pipeline.stages.embed import model_digest


def picture(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (shade, shade, 0)).save(path)
    return path


@pytest.fixture
def own(tmp_path):
    """A dataset, a run, an export and a showcase, each with a picture in it, by their names."""
    found = {
        "dataset": tmp_path / "dataset" / "columns" / "a.png",
        "run": tmp_path / "run" / "samples" / "a.png",
        "export": tmp_path / "export" / "a.png",
        "showcase": tmp_path / "showcase" / "a.png",
    }
    for path in found.values():
        picture(path)
    (tmp_path / "dataset" / "plan").mkdir()
    (tmp_path / "dataset" / "dataset.json").write_text("{")  # cut, and ours all the same
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "export" / EXPORT_MARK).touch()
    (tmp_path / "showcase" / SHOWCASE_MARK).touch()
    picture(tmp_path / "mine.png")
    return found


@pytest.mark.parametrize("name", ["dataset", "run", "export", "showcase"])
def test_what_is_ours_is_refused_by_every_door(own, tmp_path, capsys, name):
    (tmp_path / "a.txt").write_text(f"mine.png\n{own[name]}\n")
    (tmp_path / "a.csv").write_text(f"path\nmine.png\n{own[name]}\n")
    for given in ("a.txt", "a.csv"):
        found = {item.uri: item.refused for item in list_sources([str(tmp_path / given)])}
        assert found[str(tmp_path / "mine.png")] == "" and "no footage" in found[str(own[name])]
    links = tmp_path / "links"
    links.mkdir()
    (links / "folder").symlink_to(own[name].parent)
    (links / "file.png").symlink_to(own[name])
    picture(links / "mine.png")
    found = {item.uri: item.refused for item in list_sources([str(links)])}
    assert found.pop(str(links / "mine.png")) == ""
    assert [("no footage" in refused, uri) for uri, refused in found.items()] == [
        (True, str(links / "file.png"))
    ]
    row = source_row(next(item for item in list_sources([str(links)]) if item.refused))
    assert row["status"] == "failed"


def test_a_pattern_over_a_loop_of_links_lists_each_file_once(tmp_path, capsys):
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub" / "b.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = [item.uri for item in list_sources([str(tmp_path / "**" / "*.png")])]
    assert len(found) == 2 and "listed already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "File_Name,Text\na.png,hello\n"),
        ("metadata.jsonl", '{"note": "v1"}\nnull\n{"FILE_NAME": "a.png", "text": "hello"}\n'),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "hello"}\n{"file_name": \n'),
    ],
)
def test_a_folders_metadata_is_used_whatever_its_case_and_first_row(tmp_path, name, text):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    assert {item.uri: item.alt for item in list_sources([str(tmp_path)])}[str(tmp_path / "a.png")] == "hello"


def test_a_metadata_file_that_describes_nothing_is_said(tmp_path, capsys):
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("picture,text\na.png,hello\n")
    list_sources([str(tmp_path)])
    assert "describes no files" in capsys.readouterr().err


def test_a_member_that_a_list_names_has_what_lies_beside_it(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        data = io.BytesIO()
        Image.new("RGB", (32, 24)).save(data, "PNG")
        for name, content in (("001.png", data.getvalue()), ("001.txt", b"hello"), ("001.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    member = f"{tmp_path / 'a.tar'}#001.png"
    (tmp_path / "a.csv").write_text(f"path\n{member}\n")
    (tmp_path / "a.txt").write_text("a.tar#001.png\n")
    for given in ("a.tar", "a.csv", "a.txt"):
        found = {item.uri: item for item in list_sources([str(tmp_path / given)])}
        assert source_row(found[member])["alt"] == "hello", given


def test_members_of_many_tars_are_found_by_one_look_at_each(tmp_path, monkeypatch):
    looks = []
    whole = places.tar_index
    monkeypatch.setattr(places, "tar_index", lambda tar: looks.append(tar) or whole(tar))
    lines = []
    for number in range(20):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for name, content in (("a.png", b"x"), ("a.txt", b"hello"), ("b.png", b"y")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for name in ("a.png", "b.png"):
        lines += [f"{number}.tar#{name}" for number in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    found = list_sources([str(tmp_path / "a.txt")])
    assert len(found) == 40 and sum(item.caption is not None for item in found) == 20
    assert len(looks) == 20
    (tmp_path / "web.txt").write_text("https://host.example/a.tar#a.png\n")
    assert len(list_sources([str(tmp_path / "web.txt")])) == 1 and len(looks) == 20


def test_an_object_is_one_however_a_list_or_an_older_plan_spells_it():
    for one in ("s3://bucket/year=2024/a b.mp4", "s3://bucket/year%3D2024/a%20b.mp4"):
        assert planned_name(one) == "s3://bucket/year%3D2024/a%20b.mp4"
    assert planned_name("https://host/a b.mp4?v=1") == "https://host/a b.mp4?v=1"
    old = "https://host/a.mp4?hash=abc"  # written down before this was taken for a key
    assert planned_name(old) == planned_name(sealed(old)) != old
    assert planned_name("/films/100%.mp4") == "/films/100%.mp4"


def test_the_first_files_stay_the_first_when_their_folder_is_gone(tmp_path):
    for name in ("a/1", "a/2", "a/3", "b/4", "b/5"):
        picture(tmp_path / f"{name}.png", shade=int(name[-1]) * 20)
    roots = [str(tmp_path)]
    known = [item.uri for item in list_sources(roots)[:3]]
    shutil.rmtree(tmp_path / "a")
    left = list_sources(roots)
    assert _first(left, known, 3, roots) == [] and len(_first(left, known, 4, roots)) == 1
    assert len(_first(left, known, 2, [str(tmp_path / "b")])) == 2  # of another root


@pytest.mark.parametrize(
    "fields",
    [
        {"subjects": [{}], "actions": [None], "camera": {"a": 1}},
        {"subjects": [{"name": "dog"}], "camera": {}},
        {"camera": [1]},
        {"setting": 5},
    ],
)
def test_a_structured_caption_of_another_form_is_left_out_and_never_raises(tmp_path, fields):
    timed = {"start_s": 0, "end_s": 2, "kind": "structured", "text": json.dumps(fields)}
    dense = {"start_s": 0, "end_s": 2, "kind": "dense", "text": "A dog runs."}
    (tmp_path / "a.json").write_text(json.dumps({"captions": [timed, dense]}))
    picture(tmp_path / "a.png")
    (found,) = list_sources([str(tmp_path)])
    said = sidecar_fields(found)
    assert [item["kind"] for item in json.loads(said["timed_captions_json"])] == ["dense"]
    assert "cannot be read" in said["detail"]
    assert isinstance(fields_text(fields), str)


def test_fields_of_others_are_words():
    assert fields_text({"subjects": [{"name": "dog"}, "cat"], "camera": {"tag": "static"}, "x": None}) == (
        "subjects: dog; cat. camera: static"
    )


ADDRESS = "https://host/a.mp4"


@pytest.mark.parametrize(
    "query",
    [
        "Authorization=Bearer%20S3CR",
        "pw=S3CR",
        "%73ig=S3CR",
        "pass=S3CR",
        "hmac-sha256=S3CR",
        "rlkey=S3CR",
        "md5=S3CR&expires=5",
        "verify=S3CR",
        "st=S3CR",
        "__gda__=S3CR",
        "oauth_verifier=S3CR",
        "ticket=S3CR",
        "key%5B%5D=S3CR",
        "to=https%3A%2F%2Fother%2F%3Ftoken%3DS3CR",
        f"q={'S3CR' * 11}",
        "S3CR" * 11,
    ],
)
def test_a_key_by_any_name_is_sealed(query):
    found = sealed(f"{ADDRESS}?{query}")
    assert "S3CR" not in found and unsealed(found) == f"{ADDRESS}?{query}" and sealed(found) == found


@pytest.mark.parametrize(
    "query",
    [
        "v=dQw4w9WgXcQ",
        "page=3&part=2",
        "id=12345678901234567890",
        "shard=17&shape=2",
        f"t={'long-words-' * 9}",
    ],
)
def test_what_only_says_which_stays_readable(query):
    assert sealed(f"{ADDRESS}?{query}") == f"{ADDRESS}?{query}" and not holds_secret(f"?{query}")


def test_headers_beside_an_address_are_masked():
    told = {"headers": {"Authorization": "Bearer S3CR", "cookie": "S3CR"}, "api_key": "S3CR", "tokens": 5}
    told |= {"Set-Cookie": ["s=S3CR"], "X-Amz-Security-Token": "S3CR"}
    told |= {"more": [["Authorization", "S3CR"], {"name": "authorization", "value": "S3CR"}], "token": 7}
    found = json.dumps(without_secrets(told))
    assert "S3CR" not in found and '"tokens": 5' in found
    assert "S3CR" not in shown(f"{ADDRESS}?pw=S3CR")


def test_weights_behind_links_count_and_hidden_notes_do_not(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "weights").write_bytes(b"one")
    head = tmp_path / "head"
    head.mkdir()
    (head / "open_clip").symlink_to(tmp_path / "clip")
    (head / "loop").symlink_to(head)
    before = folder_digest(head)
    (head / ".cache").mkdir()
    (head / ".cache" / "notes").write_text("when it was fetched")
    assert folder_digest(head) == before
    (tmp_path / "clip" / "weights").write_bytes(b"two")
    assert folder_digest(head) != before


def test_a_digest_is_the_same_wherever_the_folder_was_written(tmp_path):
    digests = set()
    for order in (("real", "alias"), ("alias", "real")):
        folder = tmp_path / "-".join(order)
        for name in order:
            folder.mkdir(exist_ok=True)
            if name == "real":
                (folder / "real").mkdir()
                (folder / "real" / "w").write_bytes(b"weights")
            else:
                (folder / "alias").symlink_to("real")
        (folder / "lost").symlink_to("nowhere")
        digests.add(folder_digest(folder))
    assert len(digests) == 1


def test_an_architecture_is_part_of_what_embeds(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    digests = {
        model_digest(EmbedConfig(model=model, pretrained=str(tmp_path / "w.pt")))
        for model in ("ViT-B-32", "ViT-B-32-quickgelu")
    }
    assert len(digests) == 2
    (tmp_path / "moved").mkdir()
    (tmp_path / "w.pt").rename(tmp_path / "moved" / "w.pt")
    assert model_digest(EmbedConfig(model="ViT-B-32", pretrained=str(tmp_path / "moved" / "w.pt"))) in digests
