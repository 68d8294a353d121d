"""Three Ray nodes on one machine, of which one is lost amid an ingest: its work is done elsewhere."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manifests.layout import Dataset
from manifests.verify import verify
from tests.chaos.test_death import site
from tests.chaos.test_storm import SLOWER
from tests.conftest import ingest_here
from tests.e2e.commands import INGEST, committed, environment, start
from tests.e2e.test_job_submit import free_ports

RAY = Path(sys.executable).parent / "ray"
ALIKE = (
    "--node-ip-address=127.0.0.1 --object-store-memory=90000000 --min-worker-port=0 --max-worker-port=0 "
    "--num-cpus=3 --block"
)


@contextlib.contextmanager
def three_nodes(folder: Path, **extra: str):
    """(address, processes): a head and two workers of three CPUs each, each in a process group of its own."""
    port, board, client = free_ports(3)
    address, started = f"127.0.0.1:{port}", []
    head = f"--head --port={port} --dashboard-port={board} --ray-client-server-port={client}"
    own = environment(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", **extra)
    try:
        for number, role in enumerate((head, f"--address={address}", f"--address={address}")):
            with open(folder / f"node{number}.log", "w") as log:
                started.append(
                    subprocess.Popen(
                        [RAY, "start", *role.split(), *ALIKE.split()],
                        env=own,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            until_s = time.monotonic() + 60
            while subprocess.run(
                [RAY, "health-check", "--address", address], env=own, capture_output=True, check=False
            ).returncode:
                assert time.monotonic() < until_s, (folder / "node0.log").read_text()
                time.sleep(0.5)
        yield address, started
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_node_that_is_lost_changes_no_byte_and_blames_no_item(films, tmp_path):
    reference = committed(Path(ingest_here(films, tmp_path / "reference", shard_s=4).uri))
    out, path = tmp_path / "ds", site(tmp_path / "site", SLOWER)
    with three_nodes(tmp_path, PYTHONPATH=path) as (address, nodes):
        running = start(
            *("ingest", films, "--out", out, *INGEST, "--plan.shard-s", 4),
            RAY_ADDRESS=address,
            RAY_AUTH_MODE="disabled",
            PYTHONPATH=path,
        )
        until_s = time.monotonic() + 200
        while len(list((out / "columns").rglob("*.tar")) if out.exists() else []) < 3:
            assert running.poll() is None and time.monotonic() < until_s, running.stdout.read()
            time.sleep(0.3)
        os.killpg(nodes[2].pid, signal.SIGKILL)
        said = running.communicate(timeout=400)[0]
        assert running.returncode == 0, said
    made = {name: digest for name, digest in committed(out).items() if "/dedup@" not in name}
    assert made == {name: digest for name, digest in reference.items() if "/dedup@" not in name}
    assert verify(Dataset(str(out)), deep=True).is_sound
