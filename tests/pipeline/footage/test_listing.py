import csv
import datetime
import io
import json
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables.planned import segments as segments_of_plan
from media.bytes.access import read_range, stat_media, tar_index
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from pipeline.config import PlanConfig
from pipeline.footage import listing, sources
from pipeline.footage import rows as footage_rows
from pipeline.footage.found import Found
from pipeline.footage.listing import list_sources
from pipeline.footage.sources import content_id, same_bytes, source_row
from pipeline.plan import make_plan
from tests.media.bytes.http_server import Server


@pytest.fixture
def folder(films, tmp_path, monkeypatch):
    """Three films, one with a sidecar, and a still."""
    monkeypatch.setenv("RUSHES_HTTP_ALLOW_PRIVATE", "127.0.0.1/32")
    monkeypatch.setenv("RUSHES_HTTP_BACKOFF_S", "0.01")
    root = tmp_path / "footage"
    (root / "sub dir").mkdir(parents=True)
    first, second, third = sorted(
        path for path in films.iterdir() if path.suffix in {".mp4", ".mkv", ".webm"}
    )[:3]
    shutil.copy(first, root / f"a{first.suffix}")
    (root / "a.json").write_text(
        json.dumps(
            {
                "alt": "a film",
                "captions": [{"start_s": 0, "end_s": 1, "kind": "dense", "text": "t"}],
                "truth": 1,
                "licence": "CC0",
            }
        )
    )
    shutil.copy(second, root / f"b{second.suffix}")
    shutil.copy(third, root / "sub dir" / f"c ü{third.suffix}")
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(root / "still.png")
    return root


def names(found, root):
    return [item.uri.removeprefix(f"{root}/") for item in found]


def media(folder):
    return sorted(str(path) for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")


def plan(tmp_path, footage, name="ds"):
    dataset = Dataset.create(str(tmp_path / name))
    return dataset, {
        row["uri"]: row
        for row in make_plan(
            dataset, list_sources(footage), PlanConfig(), lambda files: [source_row(file) for file in files]
        )
    }


def test_folders_patterns_and_files_name_the_same_things_once(folder):
    whole = list_sources([str(folder)])
    assert [item.uri for item in whole] == media(folder)
    assert whole[0].sidecar == str(folder / "a.json")
    assert list_sources([f"{folder}/**/*"]) == whole
    assert (
        list_sources(
            [
                str(folder),
                f"{folder}/*.png",
                f"file://{quote(str(folder))}/still.png",
                f"{folder}/sub dir/../still.png",
            ]
        )
        == whole
    )
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.mp4").write_bytes(b"x")
    (folder / "notes.md").write_text("x")
    (folder / "alone.json").write_text("{}")
    assert set(names(list_sources([str(folder)]), folder)) == set(names(whole, folder)) | {
        "notes.md",
        "alone.json",
    }
    with pytest.raises(UsageError, match="nosuch"):
        list_sources([f"{folder}/nosuch*"])
    with pytest.raises(UsageError, match="scheme"):
        list_sources(["ftp://host/x.mp4"])


def rows_of(folder):
    first, second = media(folder)[:2]
    day = datetime.date(2024, 5, 1)
    return [
        {
            "uri": Path(first).name,
            "caption": "said, by the list",
            "license": "MIT",
            "tags": "sea, sky",
            "day": day,
            "score": 0.5,
            "empty": None,
        },
        {
            "uri": second,
            "caption": "",
            "license": None,
            "tags": None,
            "day": None,
            "score": float("nan"),
            "empty": None,
        },
        {
            "uri": "gone.mp4",
            "caption": "was here",
            "license": "",
            "tags": "",
            "day": None,
            "score": None,
            "empty": None,
        },
    ]


def write_list(path, rows):
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(rows).append_column(
            "video", pa.array([{"bytes": b"x" * 99, "path": "p"}] * len(rows))
        )
        pq.write_table(table, path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, default=str) for row in rows) + "\n\n")
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["uri", "path", "url", "file", "file_name"])
def test_lists_with_columns_carry_their_rows(folder, tmp_path, suffix, column):
    write_list(
        folder / f"list{suffix}",
        [{column: row["uri"], **{key: row[key] for key in row if key != "uri"}} for row in rows_of(folder)],
    )
    found = list_sources([str(folder / f"list{suffix}")])
    first, second = media(folder)[:2]
    assert [item.uri for item in found] == sorted([first, second, str(folder / "gone.mp4")])
    told = next(item for item in found if item.uri == first)
    assert (told.alt, told.sidecar) == ("said, by the list", str(folder / "a.json"))
    assert told.metadata | {"score": 0.5} == {
        "licence": "MIT",
        "tags": ["sea", "sky"],
        "day": "2024-05-01",
        "score": 0.5,
    }
    row = source_row(told)
    assert row["alt"] == "said, by the list"
    assert json.loads(row["metadata_json"])["licence"] == "MIT"
    assert json.loads(row["timed_captions_json"])[0]["text"] == "t"
    gone = source_row(next(item for item in found if item.uri.endswith("gone.mp4")))
    assert (gone["status"], gone["reason"]) == ("failed", "missing")


def test_text_lists_hold_anything_and_count_from_their_folder(folder, tmp_path, monkeypatch):
    whole = list_sources([str(folder)])
    text = folder / "list.txt"
    text.write_text("# a remark\n\nsub dir\n*.png\na.*\n" + media(folder)[1] + "\ngone.mp4\n")
    found = list_sources([str(text)])
    assert [item for item in found if not item.uri.endswith("gone.mp4")] == whole
    assert str(folder / "gone.mp4") in [item.uri for item in found]
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    (elsewhere / "x.txt").write_text("footage\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "footage" / "list.txt").unlink()
    assert list_sources(["lists/x.txt"]) == whole
    (elsewhere / "y.txt").write_text("x.txt\ny.txt\n")
    with pytest.raises(UsageError, match="contains itself"):
        list_sources([str(elsewhere / "y.txt")])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"uri": \n', "line 1: is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: is JSON but no object"),
        ("a.jsonl", b'{"alt": "x"}\n{"uri": null}\n', "line 1: names no file"),
        ("a.jsonl", b'{"uri": 5}\n', "line 1: uri is no path"),
        ("a.csv", b"uri,alt\nx.mp4,a,b\n", "line 2: has more cells"),
        ("a.csv", b"name,alt\nx.mp4,a\n", "line 2: names no file"),
        ("a.csv", b'uri,alt\nx.mp4,"a\n', "line 2: is not CSV"),
        ("a.csv", b"\nuri,caption,Caption\nx.mp4,a,b\n", "line 2: names caption twice"),
        ("a.parquet", b"PAR1 not really", "is not a whole parquet file"),
        ("a.jsonl", b"x" * 2000, "line 1: is longer than"),
    ],
)
def test_a_malformed_line_is_named_with_its_list(tmp_path, monkeypatch, name, content, words):
    monkeypatch.setattr(footage_rows, "MAX_LINE_BYTES", 1000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        list_sources([str(tmp_path / name)])
    assert caught.value.next_step
    assert name in caught.value.subject


@pytest.mark.parametrize(
    ("name", "content", "refused"),
    [
        ("a.jsonl", b'{"uri": "x.mp4"}\n{"uri": \n{"uri": "y.mp4"}\n', ["is not JSON"]),
        (
            "a.jsonl",
            b'{"uri": "x.mp4"}\n{"uri": "z.mp4", "n": ' + b"9" * 5000 + b'}\n{"uri": "y.mp4"}',
            ["JSON"],
        ),
        ("a.jsonl", b'[1]\n{"uri": "x.mp4"}\n"z"\n{"uri": "y.mp4"}\n', ["no object", "no object"]),
        ("a.csv", b"uri,alt\nx.mp4,a\nz.mp4,a,b\ny.mp4,a\n", ["has more cells"]),
        ("a.txt", b"x.mp4\nftp://h/z.mp4\ny.mp4\n", ["ftp://h/z.mp4 has a scheme"]),
    ],
)
def test_one_bad_line_takes_no_other_along(tmp_path, name, content, refused):
    (tmp_path / name).write_bytes(content)
    found = list_sources([str(tmp_path / name)])
    assert [item.uri for item in found if not item.refused] == [
        str(tmp_path / "x.mp4"),
        str(tmp_path / "y.mp4"),
    ]
    bad = [item for item in found if item.refused]
    assert all(words in item.refused for words, item in zip(refused, bad, strict=True))
    rows = [source_row(item) for item in bad]
    assert all(row["status"] == "failed" for row in rows)
    assert all(name in row["uri"] for row in rows)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_bytes_that_are_no_text_spoil_their_own_cell(tmp_path, capsys, name):
    line = {"a.csv": b"uri,alt\nx.mp4,caf\xe9\n", "a.tsv": b"uri\talt\nx.mp4\tcaf\xe9\n"}
    line |= {"a.jsonl": b'{"uri": "x.mp4", "alt": "caf\xe9"}\n'}
    (tmp_path / name).write_bytes(line[name])
    (found,) = list_sources([str(tmp_path / name)])
    assert source_row(found)["alt"] == "caf\ufffd" and "1 lines are not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "alt"),
    [
        ('"Hello" she said', '"Hello" she said'),
        ('"open', '"open'),
        ('"say ""x"""', 'say "x"'),
        ("a, b", "a, b"),
    ],
)
def test_quotes_of_a_tsv_swallow_no_line(tmp_path, cell, alt):
    text = f'path\tcaption\nx.mp4\ta\ny.mp4\t{cell}\nz.mp4\tclose"\nw.mp4\tok\n'
    (tmp_path / "a.tsv").write_text(text)
    found = {Path(item.uri).name: item.alt for item in list_sources([str(tmp_path / "a.tsv")])}
    assert found == {"x.mp4": "a", "y.mp4": alt, "z.mp4": 'close"', "w.mp4": "ok"}


def test_a_text_that_stands_often_in_a_parquet_list_is_not_unpacked_at_once(tmp_path):
    text, most = "x" * (1 << 20), 0
    names = [f"{number}.mp4" for number in range(300)]
    table = pa.table({"path": names, "alt": pa.array([text] * 300).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        for number, row in footage_rows.read_rows(str(tmp_path / "a.parquet")):
            most = max(most, pa.total_allocated_bytes() - before)
            assert number % 100 or row["alt"] == text
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 300 and most < 100 << 20 and peak < 150 << 20


def test_a_lone_quote_before_a_cell_of_several_lines_swallows_none(tmp_path):
    rows = 'y.mp4\t"open\nx.mp4\t"one\n\ntwo"\nw.mp4\t"last\nv.mp4\tplain\n'
    (tmp_path / "a.tsv").write_text("path\talt\n" + rows)
    found = {Path(item.uri).name: item.alt for item in list_sources([str(tmp_path / "a.tsv")])}
    assert found == {"y.mp4": '"open', "x.mp4": "one\n\ntwo", "w.mp4": '"last', "v.mp4": "plain"}


def test_cells_of_a_tsv_that_quotes_hold_may_hold_tabs_and_ends_of_lines(tmp_path):
    text = 'path\talt\tlicence\r\nx.mp4\t"one\ntwo"\tCC0\r\n\r\ny.mp4\t"a\tb"\tCC0\nz.mp4\t"open\tCC1"\n'
    (tmp_path / "a.tsv").write_bytes(text.encode() + b'w.mp4\tplain\t"last\nline"\n\n')
    found = {
        Path(item.uri).name: (item.alt, item.metadata.get("licence"))
        for item in list_sources([str(tmp_path / "a.tsv")])
    }
    assert found == {
        "x.mp4": ("one\ntwo", "CC0"),
        "y.mp4": ("a\tb", "CC0"),
        "z.mp4": ('"open', 'CC1"'),
        "w.mp4": ("plain", "last\nline"),
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "uri;alt\nx.mp4;a, b\n".encode("utf-32")),
        ("a.csv", b"uri;alt\r\nx.mp4;a, b\r\n"),
        ("a.csv", b'uri,alt\rx.mp4,"a, b"\r'),
        ("a.csv", b' Path ,Alt\nx.mp4,"a, b"\n'),
        ("a.csv", b"sep=;\nuri;alt\nx.mp4;a, b\n"),
        ("a.csv", b"\nuri|alt\nx.mp4|a, b\n"),
        ("a.csv", b"uri;alt;x, y\nx.mp4;a, b;1\n"),
        ("a.tsv", b"uri\talt;x\tcaption\nx.mp4\t\ta, b\n"),
        ("a.txt", b"y.mp4\rx.mp4\r"),
        ("a.txt", "y.mp4\nx.mp4\n".encode("utf-16")),
        ("a.jsonl", b'{"Path": "x.mp4", "alt": "a, b"}\r\n'),
    ],
)
def test_lists_of_other_systems_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = {item.uri: item for item in list_sources([str(tmp_path / name)])}
    assert str(tmp_path / "x.mp4") in found and len(found) == 1 + name.endswith(".txt")
    assert name.endswith(".txt") or source_row(found[str(tmp_path / "x.mp4")])["alt"] == "a, b"


def test_what_python_has_no_value_for_is_left_out_of_its_row(tmp_path):
    text = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 4, 6], np.int32)), pa.py_buffer(b"caf\xe9ok")
    )
    columns = {
        "path": ["x.mp4", "y.mp4"],
        "alt": text,
        "day": pa.array([2**31 - 1, 0], pa.date32()),
        "at": pa.array([2**62, 0], pa.timestamp("us")),
        "long": pa.array([2**62, 0], pa.duration("s")),
        "zone": pa.array([0, 0], pa.timestamp("us", tz="Nowhere/Such")),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = list_sources([str(tmp_path / "a.parquet")])
    assert (first.alt, second.alt) == ("caf\ufffd", "ok")
    assert "1970" in str(second.metadata["day"]) and not first.metadata.get("day")
    twice = pa.Table.from_arrays([pa.array(["x.mp4"])] * 2, ["path", "path"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="has columns path twice"):
        list_sources([str(tmp_path / "b.parquet")])


def test_an_entry_whose_store_cannot_be_had_fails_alone(folder, tmp_path, monkeypatch):
    def refusing(address):
        raise UsageError(address, "cannot be opened", "Check it.")

    monkeypatch.setattr(listing, "store_files", refusing)
    for name, text in (("a.txt", "{0}\n{1}\n{1}/\n"), ("a.csv", "uri\n{0}\n{1}/\n")):
        (tmp_path / name).write_text(text.format(media(folder)[0], "S3://nobucket-zz/x8.mp4"))
        found = [item.uri for item in list_sources([str(tmp_path / name)])]
        assert media(folder)[0] in found and any(uri.startswith("s3://nobucket-zz/x8.mp4") for uri in found)
    with pytest.raises(UsageError, match="cannot be opened"):
        list_sources(["s3://nobucket-zz/"])


def test_schemes_are_read_in_any_case(folder, tmp_path):
    (tmp_path / "a.txt").write_text(f"HTTPS://127.0.0.1:9/x.mp4\nFILE://{media(folder)[0]}\n")
    found = [item.uri for item in list_sources([str(tmp_path / "a.txt"), f"File://{media(folder)[1]}"])]
    assert found == sorted(["https://127.0.0.1:9/x.mp4", *media(folder)[:2]])


def test_global_headers_of_many_keys_are_not_given_to_each_member(tmp_path):
    keys = {f"k{number}": "v" for number in range(1000)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=keys) as tar:
        for number in range(50):
            add(tar, f"{number}.mp4", b"x")
    index = tar_index(str(tmp_path / "a.tar"))
    assert not index.members and "global headers have over" in index.damage


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def make_tar(folder, path):
    a, b, c, still = (Path(item).read_bytes() for item in media(folder))
    with tarfile.open(path, "w") as tar:
        add(tar, "set/0001.mp4", a)
        add(
            tar,
            "set/0001.json",
            json.dumps({"caption": "from json", "license": "MIT", "truth": 1, "fps": 8}).encode(),
        )
        add(tar, "set/0001.txt", b"from text")
        add(tar, "set/0002.mp4", b)
        add(tar, "set/0002.txt", " a caption ü\n".encode())
        add(tar, "../../escape.mp4", c)
        add(tar, "readme.md", b"x")
        add(tar, "broken.mp4", b"garbage" * 99)
        add(tar, "still.png", still)
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def test_a_tar_of_videos_is_its_members_with_what_lies_beside_them(folder, tmp_path):
    make_tar(folder, tmp_path / "x.tar")
    tar = f"{tmp_path}/x.tar"
    found = list_sources([tar])
    assert names(found, tar) == [
        f"{tar}#{name}"
        for name in (
            "../../escape.mp4",
            "broken.mp4",
            "readme.md",
            "set/0001.mp4",
            "set/0002.mp4",
            "still.png",
        )
    ]
    rows = {item.uri.split("#")[1]: source_row(item) for item in found}
    assert rows["set/0001.mp4"]["alt"] == "from json"
    assert json.loads(rows["set/0001.mp4"]["metadata_json"]) == {"licence": "MIT", "fps": 8}
    assert rows["set/0002.mp4"]["alt"] == "a caption ü"
    assert rows["../../escape.mp4"]["status"] == "kept"
    assert rows["readme.md"]["status"] == "dropped"
    assert (rows["broken.mp4"]["status"], rows["broken.mp4"]["reason"]) == ("failed", "not_media")
    local = media(folder)[1]
    assert rows["set/0002.mp4"]["source_id"] == content_id(local)
    assert same_bytes(f"{tar}#set/0002.mp4", local)
    assert [item.uri for item in list_sources([str(tmp_path)])] == sorted(
        [item.uri for item in found] + media(folder)
    )
    _, planned = plan(tmp_path, [str(tmp_path / "footage"), tar])
    assert sum(row["reason"] == "exact_duplicate" for row in planned.values()) == 4


def test_a_damaged_tar_gives_what_comes_before_the_damage_and_one_failure(folder, tmp_path):
    make_tar(folder, tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: len(Path(media(folder)[0]).read_bytes()) + 6000])
    (tmp_path / "junk.tar").write_bytes(b"junk" * 999)
    found = list_sources([f"{tmp_path}/x.tar", f"{tmp_path}/junk.tar"])
    rows = {item.uri: source_row(item) for item in found}
    assert rows[f"{tmp_path}/x.tar#set/0001.mp4"]["status"] == "kept"
    assert {rows[f"{tmp_path}/{name}.tar"]["reason"] for name in ("x", "junk")} == {"bad_tar"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_folder_with_metadata_describes_its_files(folder, suffix):
    inner = next(path for path in media(folder) if "sub dir" in path)
    rows = [
        {"file_name": "still.png", "text": "black", "source": "s"},
        {"file_name": str(Path(inner).relative_to(folder)), "text": "inside", "source": "s"},
        {"file_name": "gone.mp4", "text": "gone", "source": "s"},
    ]
    write_list(folder / f"metadata{suffix}", rows)
    found = {item.uri: item for item in list_sources([str(folder)])}
    described = [path for path in media(folder) if not path.endswith(f"metadata{suffix}")]
    assert sorted(found) == sorted([*described, str(folder / "gone.mp4")])
    assert (found[str(folder / "still.png")].alt, found[str(folder / "still.png")].metadata) == (
        "black",
        {"source": "s"},
    )
    assert found[inner].alt == "inside"
    assert found[media(folder)[0]].alt == ""
    assert source_row(found[str(folder / "gone.mp4")])["reason"] == "missing"
    nearer = folder / "sub dir" / "metadata.jsonl"
    nearer.write_text(json.dumps({"file_name": Path(inner).name, "text": "nearer"}))
    assert next(item for item in list_sources([str(folder)]) if item.uri == inner).alt == "nearer"


def test_a_metadata_file_of_another_kind_is_a_file_as_any_other(folder):
    (folder / "metadata.csv").write_text("a,b\n1,2\n")
    (folder / "metadata.jsonl").write_text("no json")
    found = {item.uri: item for item in list_sources([str(folder)])}
    assert source_row(found[str(folder / "metadata.csv")])["reason"] == "not_media_file"
    assert source_row(found[str(folder / "metadata.jsonl")])["reason"] == "not_media_file"


@pytest.mark.parametrize("rest", ['{"file_name"', '{"file_name": 5}', "no json"])
def test_of_a_metadata_file_that_is_cut_what_can_be_read_counts_and_the_rest_is_told(folder, rest, capsys):
    said = {"file_name": "still.png", "text": "black"}
    (folder / "metadata.jsonl").write_text(json.dumps(said) + "\n" + rest)
    found = {item.uri: item for item in list_sources([str(folder)])}
    assert found[str(folder / "still.png")].alt == "black" and len(found) > 3
    assert source_row(found[str(folder / "metadata.jsonl")])["reason"] == "not_media_file"
    assert "metadata.jsonl" in (told := capsys.readouterr().err) and "line 2" in told


def test_files_lists_and_tars_on_the_web(folder, tmp_path):
    make_tar(folder, folder / "x.tar")
    local = media(folder)
    with Server(folder) as server:
        first = f"{server.url}/ok/{Path(local[0]).name}"
        (folder / "list.jsonl").write_text(
            json.dumps({"url": Path(local[0]).name, "alt": "web"})
            + "\n"
            + json.dumps({"url": f"{server.url}/status/404/x.mp4"})
        )
        found = list_sources([f"{server.url}/ok/list.jsonl"])
        assert [item.uri for item in found] == [first, f"{server.url}/status/404/x.mp4"]
        row, missing = map(source_row, found)
        assert (row["status"], row["alt"], row["source_id"]) == ("kept", "web", content_id(local[0]))
        assert (missing["reason"], "404" in missing["detail"]) == ("missing", True)
        members = list_sources([f"{server.url}/ok/x.tar"])
        assert f"{server.url}/ok/x.tar#set/0002.mp4" in [item.uri for item in members]
        assert (
            source_row(next(item for item in members if item.uri.endswith("0002.mp4")))["alt"]
            == "a caption ü"
        )
        (folder / "evil.txt").write_text("/etc/passwd\n")
        with pytest.raises(UsageError, match="may not name files of this machine"):
            list_sources([f"{server.url}/ok/evil.txt"])
        with pytest.raises(UsageError, match="cannot be read"):
            list_sources([f"{server.url.replace('//', '//u:secret@')}/status/404/list.csv"])
        dataset, planned = plan(tmp_path, [first, str(folder)])
        assert (
            planned[first]["reason"] == "exact_duplicate" or planned[local[0]]["reason"] == "exact_duplicate"
        )
        again = make_plan(
            dataset,
            list_sources([first, str(folder)]),
            PlanConfig(),
            lambda files: [source_row(file) for file in files],
        )
        assert again == []
        assert len(segments_of_plan(dataset)) == 4


def test_large_files_are_named_by_the_same_samples_wherever_they_lie(folder, monkeypatch):
    monkeypatch.setattr(sources, "WHOLE_HASH_BYTES", 1 << 20)
    (folder / "big.bin").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    (folder / "other.bin").write_bytes((folder / "big.bin").read_bytes()[:-1] + b"?")
    with Server(folder) as server:
        url = f"{server.url}/ok/big.bin"
        assert content_id(url) == content_id(str(folder / "big.bin"))
        assert same_bytes(url, str(folder / "big.bin"))
        assert not same_bytes(url, str(folder / "other.bin"))


def test_prefixes_objects_lists_and_tars_of_a_store(folder, bucket, tmp_path, capsys):
    address, client = bucket
    make_tar(folder, folder / "x.tar")
    (folder / "odd #1?.png").write_bytes((folder / "still.png").read_bytes())
    (folder / "sub dir" / "metadata.csv").write_text(
        f"file_name,text\n{Path(next(p for p in media(folder) if 'sub dir' in p)).name},told\n"
    )
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "rushes", f"f/{path.relative_to(folder)}")
    local = {item.uri.removeprefix(f"{folder}/"): item for item in list_sources([str(folder)])}
    found = list_sources([address("f")])
    assert found == list_sources([address("f/")]) == sorted(found, key=lambda item: item.uri)
    assert len(found) == len(local)
    for name, item in local.items():
        tar, mark, member = name.partition("#") if ".tar#" in name else (name, "", "")
        there = next(other for other in found if other.uri == address(quote(f"f/{tar}")) + mark + member)
        assert (there.alt, there.metadata, bool(there.sidecar)) == (
            item.alt,
            item.metadata,
            bool(item.sidecar),
        ), name
        assert there.size_bytes == stat_media(item.uri)[0]
        here, row = source_row(item), source_row(there)
        assert {
            key: row.get(key)
            for key in ("source_id", "status", "reason", "alt", "metadata_json", "num_packets", "duration_s")
        } == {
            key: here.get(key)
            for key in ("source_id", "status", "reason", "alt", "metadata_json", "num_packets", "duration_s")
        } or row["status"] != "kept"
        assert row["status"] == here["status"], (name, row["detail"])
    first = media(folder)[0]
    remote = address(f"f/{Path(first).name}")
    assert [item.sidecar for item in list_sources([remote])] == [address("f/a.json")]
    ours, theirs = (list(VideoReader(probe(uri), 4096, decoder="pyav").frames()) for uri in (first, remote))
    assert [(frame.time_s, frame.rgb.tobytes()) for frame in ours] == [
        (frame.time_s, frame.rgb.tobytes()) for frame in theirs
    ]
    assert read_range(remote, 5, 10) == Path(first).read_bytes()[5:15]
    client.put_object(
        Bucket="rushes", Key="f/list.txt", Body=f"sub dir\n{Path(first).name}\nnone.mp4\n".encode()
    )
    listed = list_sources([address("f/list.txt")])
    assert [item.uri for item in listed] == sorted(
        [remote, address("f/none.mp4"), next(item.uri for item in found if "sub%20dir" in item.uri)]
    )
    assert source_row(Found(address("f/none.mp4")))["reason"] == "missing"
    with pytest.raises(MediaError):
        probe(address("none/x.mp4"))
    with pytest.raises(UsageError, match="matches anything"):
        list_sources([address("nothing/here")])
    client.upload_file(str(folder / "still.png"), "rushes", "f/still.png")
    dataset, planned = plan(tmp_path, [address("f"), str(folder)])
    assert {row["status"] for row in planned.values()} == {"kept", "dropped", "failed"}
    assert len(segments_of_plan(dataset)) == 4
    client.upload_file(str(folder / "x.tar"), "rushes", "f/still.png")
    assert make_plan(dataset, list_sources([address("f"), str(folder)]), PlanConfig(), lambda files: []) == []
    said = capsys.readouterr().err
    assert said.count("has changed") == 1
    assert "f/still.png" in said


def test_the_order_of_the_arguments_does_not_matter(folder):
    args = [str(folder), f"{folder}/sub dir", f"{folder}/still.png"]
    assert list_sources(args) == list_sources(args[::-1])
    assert Path(list_sources([str(folder)])[0].uri).is_absolute()


def test_an_export_is_no_footage(dataset, tmp_path, capsys):
    assert cli.main(arguments=["export", dataset.uri, "--out", str(tmp_path / "all" / "ex")]) == cli.DONE
    shutil.copy(next((tmp_path / "all" / "ex").glob("*.tar")), tmp_path / "all" / "mine.tar")
    found = list_sources([str(tmp_path / "all")])
    assert found and all("/ex/" not in item.uri for item in found)
    with pytest.raises(UsageError, match="an export of ours"):
        list_sources([str(tmp_path / "all" / "ex")])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_row_that_names_no_file_fails_alone(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"url": None, "alt": "a"}, {"url": "x.mp4", "alt": "b"}, {"url": " ", "alt": "c"}]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    elif kind == "jsonl":
        odd = {"url": "y.mp4\0z"}
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, odd)))
    else:
        (tmp_path / "a.csv").write_text("url,alt\n,a\nx.mp4,b\n ,c\n")
    found = list_sources([str(tmp_path / f"a.{kind}")])
    failed = [source_row(item) for item in found if item.refused]
    assert len(failed) == (3 if kind == "jsonl" else 2)
    assert {row["reason"] for row in failed} == {"no_name"} and len({row["source_id"] for row in failed}) > 1
    assert all(f"a.{kind} line " in row["uri"] for row in failed)
    assert [item.uri for item in found if not item.refused] == [str(tmp_path / "x.mp4")]
