"""Addresses that carry a key: nobody reads it from what is written down, and their files are read."""

from __future__ import annotations

import json
import shutil
import stat

import pytest

from manifests.errors import UsageError
from manifests.text import shown
from media.bytes.sealed import keyless, sealed, secret_if_there, unsealed, use_secret
from media.bytes.tar_member import is_tar, split_member
from media.errors import MediaError
from pipeline.footage.found import beside, suffix_of
from pipeline.footage.listing import list_sources
from pipeline.footage.sources import id_of_address, source_row
from tests.conftest import ingest_here
from tests.media.bytes.http_server import Server

SECRETS = [
    "https://user:s3cr3t@host/a.mp4",
    "https://user:p@s3cr3t@host:8080/a%20b.mp4?v=1",
    "https://host/a.mp4?v=1&X-Amz-Signature=s3cr3t&X-Amz-Expires=60",
    "https://host/a.mp4?token=s3cr3t",
    "https://host/x.tar?sig=s3cr3t#in/a.mp4",
    "https://user:s3cr3t@host/x.tar#in/a.mp4",
    "s3://AKIA:s3cr3t@bucket/a.mp4?region=us-east-1&endpoint_override=host%3A9",
    "s3://AKIA:s3cr3t/s3cr3t@bucket/a.mp4",
]


@pytest.fixture(autouse=True)
def own_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("RUSHES_SEAL", raising=False)
    monkeypatch.setenv("RUSHES_SEAL_FILE", str(tmp_path / "config" / "seal"))
    use_secret(None)
    yield
    use_secret(None)


@pytest.mark.parametrize("uri", SECRETS)
def test_a_key_is_sealed_and_opened_again(uri):
    found = sealed(uri)
    assert "s3cr3t" not in found and "sealed=" in found
    assert sealed(uri) == sealed(found) == found  # a run that goes on knows it again
    assert unsealed(found) == uri
    assert (split_member(uri) is None) == (split_member(found) is None)
    assert suffix_of(found) == suffix_of(uri) and is_tar(found) == is_tar(uri)


def test_what_lies_beside_is_opened_by_the_same_key():
    assert unsealed(beside(sealed("https://host/a.mp4?token=s"), ".json")) == "https://host/a.json?token=s"


@pytest.mark.parametrize(
    "uri", ["/a/b?token=1.mp4", "https://host/watch?v=1", "s3://b/x?region=us", "x.tar#a"]
)
def test_addresses_without_a_key_stay_as_they_are(uri, tmp_path):
    assert sealed(uri) == unsealed(uri) == uri
    assert not (tmp_path / "config").exists()


def test_the_secret_is_made_once_for_its_user_alone(tmp_path, monkeypatch):
    assert secret_if_there() is None
    first = sealed(SECRETS[0])
    path = tmp_path / "config" / "seal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [item.name for item in path.parent.iterdir()] == [
        "seal"
    ]
    secret = secret_if_there()
    monkeypatch.setenv("RUSHES_SEAL_FILE", str(tmp_path / "other"))
    with pytest.raises(MediaError, match="another user"):
        unsealed(first)
    use_secret(secret)  # as a process of a cluster is given it
    assert unsealed(first) == SECRETS[0]
    use_secret(None)
    (tmp_path / "other").write_text("nonsense!")
    with pytest.raises(UsageError, match="other"):
        sealed(SECRETS[0])


def test_a_seal_is_for_its_host_alone():
    stolen = sealed(SECRETS[3]).replace("//host", "//elsewhere")
    with pytest.raises(MediaError, match="sealed_elsewhere"):
        unsealed(stolen)


def test_no_key_of_a_list_is_in_a_dataset_made_from_it(films, tmp_path, monkeypatch):
    monkeypatch.setenv("RUSHES_HTTP_ALLOW_PRIVATE", "127.0.0.1/32")
    film = sorted(films.glob("film-*.mp4"))[0]
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(film, served / "a.mp4")
    (tmp_path / "footage").mkdir()
    with Server(served) as server:
        uri = f"{server.url}/ranges/a.mp4?v=7&X-Amz-Signature=s3cr3t"
        listed = tmp_path / "footage" / "list.jsonl"
        listed.write_text(json.dumps({"url": uri, "caption": "a film"}))
        [found] = list_sources([str(listed)])
        assert source_row(found)["status"] == "kept"
        dataset = ingest_here(listed, tmp_path / "ds")
        assert all("s3cr3t" in path for path, _ in server.seen)
    from manifests.tables import scans

    assert scans.table(dataset, "clips").num_rows > 0 and scans.table(dataset, "latents").num_rows > 0
    for path in (tmp_path / "ds").rglob("*"):
        assert path.is_dir() or b"s3cr3t" not in path.read_bytes(), path
    assert not any("s3cr3t" in str(scans.table(dataset, name).to_pylist()) for name in ("sources", "clips"))


NAMES = ["sig", "token", "access_token", "api_key", "apikey", "key", "AWSAccessKeyId", "GoogleAccessId"]
NAMES += ["Policy", "Key-Pair-Id", "X-Goog-Signature", "x-oss-credential", "auth", "jwt", "password"]


@pytest.mark.parametrize("name", [*NAMES, "user.secret"])
def test_parameters_that_let_one_in_are_sealed(name):
    assert "s3cr3t" not in sealed(f"https://host/a.mp4?v=1&{name}=s3cr3t")


@pytest.mark.parametrize("name", ["v", "keyword", "author", "monkey", "design", "id", "expires", "page"])
def test_other_parameters_stay(name):
    assert sealed(f"https://host/a.mp4?{name}=x") == f"https://host/a.mp4?{name}=x"


def test_a_member_may_be_named_like_a_query():
    uri = "https://u:s3cr3t@h/a.tar#dir/what?.mp4"
    assert unsealed(sealed(uri)) == uri and split_member(sealed(uri))[1] == "dir/what?.mp4"
    assert sealed("https://h/a.tar#what?token=1.mp4") == "https://h/a.tar#what?token=1.mp4"
    assert unsealed("https://h/x.mp4?sealed=1") == "https://h/x.mp4?sealed=1"


def test_a_takedown_by_address_holds_whoever_sealed_it(tmp_path, monkeypatch):
    uri = "https://u:s3cr3t@h/x.mp4?v=1"
    first = sealed(uri)
    monkeypatch.setenv("RUSHES_SEAL_FILE", str(tmp_path / "other"))
    assert sealed(uri) != first
    assert id_of_address(sealed(uri)) == id_of_address(first) != id_of_address("https://h/y.mp4")
    assert keyless(first) == "https://h/x.mp4?v=1"


def test_a_home_that_is_anothers_stops_no_work_without_keys(monkeypatch):
    monkeypatch.delenv("RUSHES_SEAL_FILE")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert secret_if_there() is None
    with pytest.raises(UsageError, match="RUSHES_SEAL_FILE"):
        sealed(SECRETS[0])
    monkeypatch.setenv("RUSHES_SEAL", "schl\u00fcssel")
    with pytest.raises(UsageError, match="RUSHES_SEAL:"):
        secret_if_there()


@pytest.mark.parametrize(
    "uri",
    [
        "http://[::1]:8766/a@b.mp4",
        "http://[2001:db8::1]/a@b.mp4",
        "https://host:8080/@user/x.mp4",
        "https://host/x.mp4?v=1&barcode=5",
        "https://host/x.mp4?country_code=US&session_number=3",
        "https://host/a.tar#member;key=1.mp4",
    ],
)
def test_what_holds_no_key_is_left_as_it_is(uri):
    assert sealed(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "https://u:s3c/r3t@host:9/x.mp4",
        "https://host/x.mp4?hdnts=exp=1~hmac=s3cr3t",
        "https://host/x.mp4?api%5Fkey=s3cr3t",
        "https://host/x.mp4?sessionid=s3cr3t&v=2",
        "https://host/a;jsessionid=s3cr3t/x.mp4?v=1",
        "https://host/x.mp4?code=s3cr3t/with/slashes",
    ],
)
def test_keys_by_other_names_and_in_other_places_are_sealed(uri):
    found = sealed(uri)
    assert "s3c" not in found and unsealed(found) == uri and "s3c" not in shown(uri)
    assert "s3c" not in sealed("https://host/x.mp4#access_token=s3cr3t")
