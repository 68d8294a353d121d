import pytest
from fastapi.testclient import TestClient

from dashboard.app import make_app
from manifests import cli, queries


@pytest.fixture(scope="module")
def client(dataset):
    return TestClient(make_app(dataset.uri))


def test_the_page_shows_the_funnel_and_its_json_twin_says_the_same(client, dataset):
    page, status = client.get("/").text, client.get("/status.json").json()
    assert [row["column"].split("@")[0] for row in status["funnel"]] == [
        "plan",
        "caption",
        "dedup",
        "latent",
        "preview",
        "text",
    ]
    for row in status["funnel"]:
        assert row["column"] in page
        assert row["in"] == row["kept"] + row["dropped"] + row["failed"]
    assert "http://" not in page.replace("http://testserver", "")
    assert "<script" not in page


def test_posters_and_proxies_come_out_of_the_tars(client, dataset):
    clip = next(clip for clip in queries.table(dataset, "clips").to_pylist() if clip["num_frames"] > 1)
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


def test_only_loopback_is_bound(dataset):
    assert cli.main(arguments=["dashboard", dataset.uri, "--host", "0.0.0.0"]) == cli.USAGE
