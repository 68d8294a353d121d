from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from dashboard.site import without_paths
from manifests import cli
from manifests.tables import scans


@pytest.fixture(scope="module")
def client(dataset, tmp_path_factory):
    return TestClient(make_app(dataset.uri, tmp_path_factory.mktemp("index")), "http://127.0.0.1")


def test_posters_and_proxies_come_out_of_the_tars(client, dataset):
    clip = next(clip for clip in scans.table(dataset, "clips").to_pylist() if clip["num_frames"] > 1)
    poster, proxy = (client.get(f"/media/{clip['clip_id']}.{name}") for name in ("poster.jpg", "proxy.webm"))
    assert poster.content[:2] == b"\xff\xd8"
    assert proxy.content[:4] == b"\x1a\x45\xdf\xa3"


@pytest.mark.parametrize(
    "path", ["/media/nosuch.poster.jpg", "/media/..%2f..%2fdataset.json", "/media/%2fetc%2fpasswd"]
)
def test_names_outside_the_index_are_not_served(client, path):
    assert client.get(path).status_code == 404


def test_nothing_can_be_written(client):
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/").status_code == 405


def test_head_is_get_without_its_body(client, dataset):
    clip = scans.table(dataset, "clips")["clip_id"][0].as_py()
    for path in ("/", "/clips", f"/media/{clip}.poster.jpg", "/static/style.css"):
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/media/nosuch.poster.jpg").status_code == 404
    assert client.head("/events").status_code == 200  # and does not wait for one


@pytest.mark.parametrize("host", ["foo", "300.1.1.1", "example.org"])
def test_what_is_no_address_is_not_bound(dataset, host):
    assert cli.main(arguments=["dashboard", dataset.uri, "--host", host]) == cli.USAGE


def test_a_range_is_those_bytes_of_the_video(client, dataset):
    clip = next(clip for clip in scans.table(dataset, "clips").to_pylist() if clip["num_frames"] > 1)
    url = f"/media/{clip['clip_id']}.proxy.webm"
    whole = client.get(url).content
    for asked, expected in (
        ("bytes=0-", whole),
        ("bytes=10-19", whole[10:20]),
        (f"bytes={len(whole) * 4 // 5}-", whole[len(whole) * 4 // 5 :]),
        ("bytes=-7", whole[-7:]),
        (f"bytes=5-{len(whole) * 2}", whole[5:]),
    ):
        response = client.get(url, headers={"range": asked})
        assert (response.status_code, response.content) == (206, expected), asked
        assert response.headers["content-range"].endswith(f"/{len(whole)}")
    assert client.get(url, headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get(url, headers={"range": "pages=1-2"}).content == whole


@pytest.mark.parametrize(
    "host",
    ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "", "10.0.0.1", "[::1]evil.com", "localhost:80:x"],
)
def test_another_host_is_not_answered(client, host):
    for path in ("/", "/now.json", "/static/style.css", "/events"):
        assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_loopback_is_answered_with_a_policy_that_the_page_keeps(client, host):
    response = client.get("/", headers={"host": host})
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<style" not in response.text and "style=" not in response.text


def test_a_flipped_byte_and_a_missing_tar_are_no_video(copy, tmp_path):
    client = TestClient(make_app(copy.uri, tmp_path / "index"), "http://127.0.0.1")
    column = next(column for column in copy.columns() if column.name == "preview")
    path, members = next(iter(scans.members(copy, column).values()))
    member = next(member for member in members if member.field == "proxy.webm")
    with open(path, "r+b") as file:
        file.seek(member.offset + member.size_bytes - 9)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    answer = client.get(f"/media/{member.name}", headers={"range": "bytes=0-99"})
    assert answer.status_code == 500 and "crc32" in answer.text
    Path(path).unlink()
    assert client.get(f"/media/{member.name}", headers={"range": "bytes=0-99"}).status_code == 404


def test_folders_are_left_out_of_texts_blanks_and_all():
    found = without_paths(
        {"text": "/data/Client X/take one/a.mp4: ended early", "note": "red/blue and/or not"}
    )
    assert found == {"text": "a.mp4: ended early", "note": "red/blue and/or not"}
