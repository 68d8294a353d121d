"""Which Ray a run speaks to, and who may speak to ours."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from manifests.errors import UsageError
from pipeline.engine import cluster
from tests.e2e.commands import environment, free_port, run


@pytest.fixture
def closed_port():
    return free_port()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "auto", "nonsense"])
def test_a_cluster_that_does_not_answer_is_one_line_at_once_and_leaves_nothing(
    monkeypatch, tmp_path, closed_port, form
):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", form.format(closed_port))
    begin = time.monotonic()
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS=.*unset RAY_ADDRESS"):
        cluster.check_address()
    assert time.monotonic() - begin < 15


def test_auto_names_the_ray_of_this_machine_only_while_it_runs(monkeypatch, tmp_path, closed_port):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}\n")
    with pytest.raises(UsageError, match="nothing answers"):
        cluster.check_address()
    with socket.create_server(("127.0.0.1", closed_port)):
        assert cluster.check_address() == f"127.0.0.1:{closed_port}"


def test_no_address_is_a_ray_of_our_own(monkeypatch):
    for value in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert cluster.check_address() == ""


def test_a_dead_address_leaves_no_dataset(films, tmp_path, closed_port):
    address = f"127.0.0.1:{closed_port}"
    done = run("ingest", films, "--out", tmp_path / "ds", check=2, RAY_ADDRESS=address)
    assert len(done.stderr.strip().splitlines()) == 1 and address in done.stderr
    assert not (tmp_path / "ds").exists()


def test_the_token_can_be_read_by_this_user_alone_and_a_users_choice_stands(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster._keep_others_out()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    monkeypatch.delenv("RAY_AUTH_MODE")
    cluster._keep_others_out()
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert len(path.read_text()) == 64


OURS = """
import sys, time, ray
from pipeline.engine.cluster import session
with session(1) as where:
    print(where, ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""
THEIRS = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('joined')"


@pytest.mark.slow
@pytest.mark.ray
def test_a_stranger_cannot_join_the_ray_of_a_run():
    ours = subprocess.Popen(
        [sys.executable, "-c", OURS],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = next(line for line in ours.stdout if line.startswith("embedded"))
        address = line.split()[1]
        for extra in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess"}):
            done = subprocess.run(
                [sys.executable, "-c", THEIRS, address],
                env=environment(**extra),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode != 0 and "joined" not in done.stdout
    finally:
        ours.communicate("\n", timeout=60)
    assert ours.returncode == 0


@pytest.mark.slow
@pytest.mark.ray
def test_the_users_own_token_is_neither_used_nor_written(tmp_path):
    code = OURS.replace("sys.stdin.readline()", "import os; print(os.environ['RAY_AUTH_MODE'])")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0 and "token" in done.stdout
    assert not (tmp_path / ".ray").exists() and "authentication" not in done.stderr.lower()


def test_light_actors_are_as_many_as_their_shards_pay_for():
    from pipeline.config import IngestConfig
    from pipeline.engine.runner import worth_starting

    light, heavy = cluster.Resources(num_cpus=0.25), cluster.Resources(num_cpus=1)
    assert worth_starting(3, 2, IngestConfig().encode_on) == 3  # to encode is work
    assert [worth_starting(3, count, light) for count in (0, 3, 8, 400)] == [1, 1, 2, 3]
    assert [worth_starting(3, 2, one) for one in (heavy, cluster.Resources(num_cpus=0.25, num_gpus=1))] == [
        3,
        3,
    ]


def test_workers_find_modules_where_the_driver_found_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "own", "/elsewhere"]))
    cluster._make_module_path_absolute()
    found = os.environ["PYTHONPATH"].split(os.pathsep)
    assert found == [str(tmp_path), str(tmp_path / "own"), "/elsewhere"]


def test_tokens_of_killed_processes_are_swept_and_those_of_living_ones_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cluster, "_YOUNG_S", -1.0)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    dead = tmp_path / "rushes-token-dead"
    dead.mkdir()
    (dead / "token").write_text("0" * 64)
    (tmp_path / "rushes-token-pipe").mkdir()
    os.mkfifo(tmp_path / "rushes-token-pipe" / "token")  # whoever opens it would wait for ever
    for _ in range(2):
        cluster._keep_others_out()
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert not dead.exists() and len(list(tmp_path.iterdir())) == 3
