"""The same bytes on an object store: a real S3 server process on loopback."""

import os
from pathlib import Path

import pytest

from manifests.layout import Dataset
from manifests.store import storage
from manifests.tables import scans
from manifests.verify import verify
from tests.chaos.test_death import SLOW_COMMITS, site
from tests.conftest import ingest_here
from tests.e2e.commands import INGEST, committed, digests, is_committed, run, start


def stored_in(remote):
    """Digests of every committed file of a dataset on the store, by name."""
    found = {}
    for info in storage.list_files(remote.filesystem, remote.root):
        name = remote.relative(info.path)
        if is_committed(name):
            found |= digests(name, storage.read_bytes(remote.filesystem, info.path))
    return found


def test_a_dataset_on_s3_is_byte_identical_to_a_local_one_and_reads_alike(films, dataset, bucket):
    uri = bucket[0]("ds")
    remote = ingest_here(films, uri)
    local = committed(Path(dataset.uri))
    stored = stored_in(remote)
    assert stored == local
    assert verify(Dataset(uri), deep=True).is_sound
    assert scans.table(Dataset(uri), "clips").equals(scans.table(dataset, "clips"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_footage_and_dataset_on_s3_killed_half_way_and_rerun_are_byte_identical_to_a_local_dataset(
    films, dataset, bucket, tmp_path
):
    """The same bytes whether the dataset lies on the store or on disk; and but for the addresses in them,
    those of local footage.
    """
    address, client = bucket
    footage, out = address("footage"), address("ds")
    for path in films.iterdir():
        client.upload_file(str(path), "rushes", f"footage/{path.name}")
    here = ingest_here(footage, tmp_path / "local")
    keys = {
        key: os.environ[key]
        for key in (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
            "AWS_EC2_METADATA_DISABLED",
        )
    }
    process = start(
        "ingest",
        footage,
        "--out",
        out,
        *INGEST,
        PYTHONPATH=site(tmp_path / "site", SLOW_COMMITS),
        **keys,
    )
    for line in process.stdout:
        if line.startswith("[3/"):
            process.kill()
            break
    process.communicate(timeout=60)
    remote = Dataset(out)
    assert not verify(remote).problems
    assert 0 < len(scans.table(remote, "shards")) < len(scans.table(here, "shards"))
    run("ingest", footage, "--out", out, *INGEST, **keys)
    assert stored_in(remote) == committed(tmp_path / "local")
    assert verify(remote, deep=True).is_sound

    def shots(made):
        return sorted(
            (row["clip_id"], row["start_s"], row["end_s"], row["num_frames"], row["camera"])
            for row in scans.table(made, "clips").to_pylist()
        )

    assert shots(remote) == shots(dataset)
