"""Tars, lists, sidecars and folders that are made to break the listing, or hold more than they tell."""

import io
import json
import os
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.errors import UsageError
from manifests.layout import Dataset
from pipeline.footage.listing import list_sources
from pipeline.footage.sources import source_row


@pytest.fixture
def film(films):
    return sorted(films.glob("film-*.mp4"))[0]


def rows(*arguments):
    return [source_row(found) for found in list_sources([str(argument) for argument in arguments])]


def header(name, size, kind=tarfile.REGTYPE):
    """512 bytes; a negative size as GNU tar writes large ones."""
    info = tarfile.TarInfo(name)
    info.type = kind
    found = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    found[124:136] = b"\xff" + (256**11 + size).to_bytes(12, "big")[1:] if size < 0 else b"%011o\0" % size
    found[148:156] = b" " * 8
    found[148:156] = b"%06o\0 " % sum(found)
    return bytes(found)


def filled(data):
    return data + bytes(-len(data) % 512)


END = bytes(1024)
PAX = filled(b"14 size=-1536\n")
TARS = {
    "a negative size": header("n.mp4", -512) + END,
    "a size that pax makes negative": header("p", 14, tarfile.XHDTYPE) + PAX + header("n.mp4", 0) + END,
    "thousands of extensions": header("p", 0, tarfile.XHDTYPE) * 3000 + header("n.mp4", 0) + END,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", TARS)
def test_a_tar_that_leads_in_circles_ends_and_costs_only_itself(film, tmp_path, what):
    data = film.read_bytes()
    (tmp_path / "x.tar").write_bytes(header("good.mp4", len(data)) + filled(data) + TARS[what])
    shutil.copy(film, tmp_path / "beside.mp4")
    found = {row["uri"].removeprefix(f"{tmp_path}/"): row["reason"] for row in rows(tmp_path)}
    assert found == {"beside.mp4": "", "x.tar": "bad_tar", "x.tar#good.mp4": ""}


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_what_of_a_tar_is_left_out_is_counted(film, tmp_path, capsys):
    data = film.read_bytes()
    path = tar(tmp_path / "X.TAR", [("a.mp4", data), ("a.mp4", data[:-1]), (".h/b.mp4", data)])
    with tarfile.open(path, "a") as file:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "a.mp4"
        file.addfile(link)
    [row] = rows(path)
    assert (row["uri"], row["status"]) == (f"{path}#a.mp4", "kept")
    said = capsys.readouterr()
    for part in ("1 hidden names", "1 links", "1 second members of a name"):
        assert part in said.out + said.err


def test_a_folder_may_be_named_as_a_member_of_a_tar(film, tmp_path):
    folder = tmp_path / "d.tar#1"
    folder.mkdir()
    tar(folder / "v.tar", [("a.mp4", film.read_bytes())])
    shutil.copy(film, folder / "f.mp4")
    found = {row["uri"].removeprefix(f"{folder}/"): row["status"] for row in rows(tmp_path)}
    assert found == {"f.mp4": "kept", "v.tar#a.mp4": "kept"}


def test_the_nearest_text_describes_a_file_in_folders_and_tars(film, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("d.one.mp4", "d.two.mp4"):
        shutil.copy(film, folder / name)
    (folder / "d.two.txt").write_text("two")
    (folder / "d.txt").write_text("shared")
    tar(tmp_path / "in.tar", [(path.name, path.read_bytes()) for path in folder.iterdir()])
    for place in (folder, tmp_path / "in.tar"):
        alts = {row["uri"][len(str(place)) + 1 :]: row["alt"] for row in rows(place)}
        assert alts["d.two.mp4"] == "two"
    assert alts["d.one.mp4"] == "shared"  # by its WebDataset key


def test_endings_in_capitals_are_of_the_same_kind(film, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("C.MP4", "d.mp4"):
        shutil.copy(film, folder / name)
    (folder / "C.TXT").write_text("capitals")
    (folder / "d.JSON").write_text(json.dumps({"alt": "json"}))
    tar(tmp_path / "in.tar", [(path.name, path.read_bytes()) for path in folder.iterdir()])
    for place in (folder, tmp_path / "in.tar"):
        assert {row["uri"][len(str(place)) + 1 :]: row["alt"] for row in rows(place)} == {
            "C.MP4": "capitals",
            "d.mp4": "json",
        }


def test_our_own_outputs_are_no_footage_from_whatever_depth(film, tmp_path, capsys):
    inside = Dataset.create(str(tmp_path / "ds")).path("columns", "preview")
    os.makedirs(inside)
    shutil.copy(film, inside)
    shutil.copy(film, tmp_path / "real.mp4")
    for path in (inside, f"{inside}/{film.name}"):
        with pytest.raises(UsageError, match="dataset of ours"):
            list_sources([path])
    assert [found.uri for found in list_sources([f"{tmp_path}/**"])] == [f"{tmp_path}/real.mp4"]
    said = capsys.readouterr()
    assert "a dataset of ours" in said.out + said.err


def test_a_header_that_is_too_deep_or_too_large_is_none_of_ours(film, tmp_path):
    for name in ("deep", "large"):
        (tmp_path / name).mkdir()
    (tmp_path / "deep" / "dataset.json").write_text("[" * 200_000)
    with (tmp_path / "large" / "dataset.json").open("wb") as file:
        file.truncate(8 << 30)
    shutil.copy(film, tmp_path / "deep")
    assert [row["status"] for row in rows(tmp_path) if row["uri"].endswith(".mp4")] == ["kept"]


def test_a_pattern_names_folders_and_what_cannot_be_read_too(film, tmp_path):
    (tmp_path / "sub").mkdir()
    shutil.copy(film, tmp_path / "sub" / "in.mp4")
    shutil.copy(film, tmp_path / "a.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = {row["uri"].removeprefix(f"{tmp_path}/"): row["status"] for row in rows(f"{tmp_path}/*")}
    assert found == {"a.mp4": "kept", "gone.mp4": "failed", "sub/in.mp4": "kept"}


def test_rows_of_a_table_name_folders_and_patterns_as_lines_of_a_text_do(film, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(film, tmp_path / "in" / "a.mp4")
    for entry in ("in", "in/*.mp4"):
        (tmp_path / "l.csv").write_text(f"path,caption\n{entry},a caption\n")
        (tmp_path / "l.tsv").write_text(f"path\tcaption\n{entry}\ta caption\n")
        (tmp_path / "l.txt").write_text(f"{entry}\n")
        for name, alt in (("l.csv", "a caption"), ("l.tsv", "a caption"), ("l.txt", "")):
            [row] = rows(tmp_path / name)
            assert (row["uri"], row["alt"]) == (f"{tmp_path}/in/a.mp4", alt)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_may_be_of_utf_16(film, tmp_path, encoding):
    shutil.copy(film, tmp_path / "ü.mp4")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    texts = {
        "l.txt": "ü.mp4\n",
        "l.csv": "path,caption\nü.mp4,größer\n",
        "l.jsonl": json.dumps({"path": "ü.mp4"}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(mark + text, encoding=encoding)
        [row] = rows(tmp_path / name)
        assert row["uri"] == f"{tmp_path}/ü.mp4", name
        assert row["alt"] == ("größer" if name == "l.csv" else "")


def test_captions_that_are_no_text_are_refused_and_said(film, tmp_path):
    shutil.copy(film, tmp_path / "a.mp4")
    (tmp_path / "l.jsonl").write_text(json.dumps({"path": "a.mp4", "alt": 5, "tags": "[" * 100_000}))
    [row] = rows(tmp_path / "l.jsonl")
    assert row["alt"] == "" and "alt is a int and no text" in row["detail"]
    (tmp_path / "a.json").write_text(json.dumps({"alt": ["list"]}))
    [row] = rows(tmp_path / "a.mp4", tmp_path / "a.json")
    assert row["alt"] == "" and "alt is a list and no text" in row["detail"]


def test_what_lists_say_of_a_file_keeps_no_secret(film, tmp_path):
    shutil.copy(film, tmp_path / "a.mp4")
    said = {
        "path": "a.mp4",
        "url": "https://user:s3cr3t@host/x?v=7&X-Amz-Signature=s3cr3t&token=s3cr3t",
        "origin": "s3://AKIA:s3cr3t@bucket/x?sig=s3cr3t",
        "source": {"page": "https://host/watch?v=7"},
    }
    (tmp_path / "l.jsonl").write_text(json.dumps(said))
    [row] = rows(tmp_path / "l.jsonl")
    assert "s3cr3t" not in json.dumps(row, default=str)
    assert row["origin"].startswith("https://***@host/x?v=7&")
    assert json.loads(row["metadata_json"])["source"] == {"page": "https://host/watch?v=7"}


def test_an_address_that_is_none_is_a_row(film, tmp_path):
    shutil.copy(film, tmp_path / "a.mp4")
    (tmp_path / "l.txt").write_text("a.mp4\nfile://[bad/x.mp4\nhttp://[bad\n")
    assert sorted(row["status"] for row in rows(tmp_path / "l.txt")) == ["failed", "failed", "kept"]


def test_a_row_that_names_nothing_is_a_row_and_gives_its_words_to_no_other(film, tmp_path):
    shutil.copy(film, tmp_path / "clip1.mp4")
    (tmp_path / "empty").mkdir()
    names = ["clip[1].mp4", "empty", "x" * 300 + ".mp4", "x" * 300 + ".tar#a.mp4", "clip1.mp4"]
    (tmp_path / "l.jsonl").write_text("\n".join(json.dumps({"path": name, "alt": name}) for name in names))
    found = {row["alt"]: row["status"] for row in rows(tmp_path / "l.jsonl")}
    assert found == {name: "kept" if name == "clip1.mp4" else "failed" for name in names}


def test_footage_may_lie_beside_a_datasets_own_folders(film, tmp_path):
    footage = tmp_path / "ds" / "footage"
    Dataset.create(str(tmp_path / "ds"))
    footage.mkdir()
    shutil.copy(film, footage)
    assert [row["status"] for row in rows(footage)] == ["kept"]


def test_of_two_sidecars_of_a_tar_the_unused_one_has_its_row(film, tmp_path):
    members = [("f.mp4", film.read_bytes()), ("f.json", b'{"alt": "a"}'), ("f.JSON", b'{"alt": "b"}')]
    found = {row["uri"].partition("#")[2]: row["alt"] for row in rows(tar(tmp_path / "t.tar", members))}
    assert found == {"f.mp4": "a", "f.JSON": ""}


def test_captions_and_failed_rows_keep_no_secret(film, tmp_path):
    shutil.copy(film, tmp_path / "a.mp4")
    said = "see https://u:s3cr3t@h/p?token=s3cr3t"
    lines = [{"path": name, "alt": said, "note": said} for name in ("a.mp4", "gone.mp4")]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = rows(tmp_path / "l.jsonl")
    assert {row["status"] for row in found} == {"kept", "failed"}
    assert "s3cr3t" not in json.dumps(found, default=str)


def test_tars_joined_end_to_end_are_read_to_their_end(film, tmp_path, capsys):
    data = film.read_bytes()

    def one(name, blocks=2):
        return header(name, len(data)) + filled(data) + bytes(512 * blocks)

    joined = tmp_path / "joined.tar"
    joined.write_bytes(one("a.mp4") + one("b.mp4", 2000) + one("c.mp4"))
    assert {row["uri"].partition("#")[2]: row["reason"] for row in rows(joined)} == dict.fromkeys(
        ["a.mp4", "b.mp4", "c.mp4"], ""
    )
    capsys.readouterr()
    for rest, told in ((b"a note that somebody left" * 50, 1250), (bytes(6 << 20) + one("b.mp4"), None)):
        joined.write_bytes(one("a.mp4") + rest)
        assert {row["uri"].partition("#")[2]: row["reason"] for row in rows(joined)} == {"a.mp4": ""}
        said = capsys.readouterr().err
        assert "bytes behind its end" in said and (told is None or f"{told} bytes" in said)
    lost = bytearray(one("a.mp4", 0) + one("b.mp4"))  # the second header, zeroed
    lost[len(one("a.mp4", 0)) : len(one("a.mp4", 0)) + 512] = bytes(512)
    joined.write_bytes(lost)
    assert {row["reason"] for row in rows(joined)} == {"", "bad_tar"}
    joined.write_bytes(one("a.mp4") + bytes(3 << 20))  # a record may be as long
    assert len(rows(joined)) == 1 and "behind its end" not in capsys.readouterr().err
    cut = one("a.mp4") + one("b.mp4")[:-2000]
    joined.write_bytes(cut)
    assert {row["uri"].partition("#")[2]: row["reason"] for row in rows(joined)} == {
        "": "bad_tar",
        "a.mp4": "",
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_list_of_very_many_columns_is_read_in_bounded_time(film, tmp_path, suffix):
    names = ["path", *(f"c{number}" for number in range(20_000 if suffix == "parquet" else 200_000))]
    path = tmp_path / f"wide.{suffix}"
    if suffix == "csv":
        path.write_text(",".join(names) + f"\n{film}," + ",".join("1" for _ in names[1:]) + "\n")
    else:
        pq.write_table(pa.table({name: [str(film)] for name in names}), path)
    assert [row["reason"] for row in rows(path)] == [""]


def test_a_parquet_list_of_bytes_alone_is_refused_by_name(film, tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": [str(film).encode()]}), path)
    with pytest.raises(UsageError, match=r"list\.parquet: has bytes and no text in its columns \(path\)"):
        rows(film, path)


def test_a_link_to_a_secret_gives_no_words(film, tmp_path, monkeypatch):
    home, folder = tmp_path / "home", tmp_path / "footage"
    (home / ".ssh").mkdir(parents=True)
    (home / ".config" / "rushes").mkdir(parents=True)
    folder.mkdir()
    secrets = {"1.txt": home / ".ssh" / "id", "2.json": home / ".config" / "rushes" / "seal"}
    secrets["metadata.jsonl"] = home / ".ssh" / "table"
    for name, secret in secrets.items():
        secret.write_text('{"key": "very secret", "file_name": "3.mp4", "alt": "very secret"}')
        (folder / name).symlink_to(secret)
    (folder / "3.txt").symlink_to(tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("words that lie elsewhere")
    for number in (1, 2, 3):
        shutil.copy(film, folder / f"{number}.mp4")
    monkeypatch.setenv("HOME", str(home))
    found = {row["uri"].rpartition("/")[2]: row for row in rows(folder)}
    assert "very secret" not in repr(found)
    assert "credentials" in found["1.mp4"]["detail"] and "credentials" in found["2.mp4"]["detail"]
    assert found["3.mp4"]["alt"] == "words that lie elsewhere"
    assert all(found[f"{number}.mp4"]["status"] == "kept" for number in (1, 2, 3))


def test_a_folders_metadata_names_no_file_outside_of_it(film, tmp_path, capsys):
    folder = tmp_path / "footage"
    (folder / "below").mkdir(parents=True)
    shutil.copy(film, tmp_path / "private.mp4")
    shutil.copy(film, folder / "below" / "own.mp4")
    names = ["below/own.mp4", "../private.mp4", str(tmp_path / "private.mp4"), "below/../../private.mp4"]
    names += [f"file://{tmp_path}/private.mp4", "http://127.0.0.1:9/x.mp4"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    found = {row["uri"]: row["status"] for row in rows(folder)}
    assert {uri: status for uri, status in found.items() if status == "kept"} == {
        str(folder / "below" / "own.mp4"): "kept"
    }
    assert not any("private" in uri or "127.0.0.1" in uri for uri in found)
    assert "5 lines name files outside of its folder (line 2, 3, 4, 5, 6)" in capsys.readouterr().err
    own = folder / "below" / "own.mp4"
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": str(own), "alt": "its own words"}))
    (tmp_path / "link").symlink_to(folder)
    for way in (folder, tmp_path / "link"):
        assert [row["alt"] for row in rows(way)] == ["its own words"]
