"""A decoder that is taken over reads footage, and no secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from media.apart import pool
from media.apart.landlock import named, secret_places
from media.apart.process import Decoder
from media.apart.reader import Reader, probe
from media.errors import MediaError
from tests.conftest import ROOT

TRIED = """
import os, sys
from media.apart.landlock import keep_from_secrets

def says(path):
    try:
        with open(path, "rb") as file:
            file.read(10)
        return "read"
    except OSError as error:
        return type(error).__name__

if not keep_from_secrets():
    sys.exit(77)
print(*map(says, sys.argv[1:]))
"""


def tried(*paths, **environment):
    done = subprocess.run(
        [sys.executable, "-c", TRIED, *map(str, paths)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_secrets_are_not_read_and_all_else_is(tmp_path):
    """Nor is what lies beside a secret refused, nor the environment of the process that asks given."""
    home = tmp_path / "home"
    for name in (".aws/credentials", ".ssh/id", ".config/other", "footage/a", "b", ".netrc"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    (tmp_path / "clusters").write_text("x")
    (home / "link").symlink_to(home / ".aws" / "credentials")
    (tmp_path / "token").write_text("x")
    said = tried(
        *(home / name for name in (".aws/credentials", ".ssh/id", ".netrc", "link")),
        tmp_path / "token",
        tmp_path / "clusters",
        f"/proc/{os.getpid()}/environ",
        *(home / name for name in (".config/other", "footage/a", "b")),
        "/proc/self/status",
        "/proc/cpuinfo",
        sys.executable,
        HOME=str(home),
        GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "token"),
        KUBECONFIG=f"~/nothing:{tmp_path / 'clusters'}",
    )
    assert said == ["PermissionError"] * 7 + ["read"] * 6


WRITTEN = """
import sys
from media.apart.landlock import keep_from_secrets

if not keep_from_secrets(sys.argv[1:2]):
    sys.exit(77)
for path in sys.argv[1:]:
    try:
        with open(path, "r+b") as file:
            print("written" if file.write(b"x") else "not")
    except OSError as error:
        print(type(error).__name__)
"""


def test_with_a_gpu_its_devices_alone_are_written_to(tmp_path):
    for name in ("device", "other", "secret"):
        (tmp_path / name).write_text("-")
    done = subprocess.run(
        [sys.executable, "-c", WRITTEN, *(str(tmp_path / name) for name in ("device", "other", "secret"))],
        env={**os.environ, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "secret")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    assert done.stdout.split() == ["written", "PermissionError", "PermissionError"], done.stderr
    assert [(tmp_path / name).read_text() for name in ("device", "other")] == ["x", "-"]


@pytest.mark.parametrize("home", ["", "/nowhere", "a folder one may not search"])
def test_any_home_will_do(tmp_path, home):
    (tmp_path / "locked" / ".aws").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    as_other = (
        ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 and shutil.which("setpriv") else []
    )
    done = subprocess.run(
        [*as_other, sys.executable, "-c", TRIED, "/proc/self/status"],
        env={"HOME": str(tmp_path / "locked") if " " in home else home, "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    (tmp_path / "locked").chmod(0o700)
    if (
        as_other
        and "Permission denied" in done.stderr
        and "python" in done.stderr.lower()
        and not done.stdout
    ):
        pytest.skip("another user may not run this Python")
    assert done.returncode == 77 or done.stdout.split() == ["read"], done.stderr


def test_what_came_after_its_decoder_is_read_by_a_new_one(films, tmp_path, monkeypatch):
    tried()
    film = sorted(films.glob("*.mp4"))[0]
    (tmp_path / "secret").write_text("x")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "secret"))
    shutil.copy(film, tmp_path / "one.mp4")
    pool._pool.end()
    facts = probe(str(tmp_path / "one.mp4"))
    shutil.copy(film, tmp_path / "two.mp4")  # beside a secret, so entries are named one by one
    assert probe(str(tmp_path / "two.mp4")).num_packets == facts.num_packets
    shutil.copy(film, tmp_path / "three.mp4")
    assert len(list(Reader(facts).frames())) == len(
        list(Reader(replace(facts, path=str(tmp_path / "three.mp4"))).frames())
    )
    shutil.copy(film, tmp_path / "secret")
    with pytest.raises(MediaError, match="lies where credentials usually do"):
        probe(str(tmp_path / "secret"))


def test_a_decoder_is_kept_from_them(films, tmp_path, monkeypatch):
    tried()
    film = sorted(films.glob("*.mp4"))[0]
    for name in ("secret.mp4", "film.mp4"):
        shutil.copy(film, tmp_path / name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "secret.mp4"))
    decoder = Decoder()
    try:
        decoder.begin(str(tmp_path / "film.mp4"))
        assert decoder.ask("probe", path=str(tmp_path / "film.mp4"))[0]["probe"]["codec"]
        with pytest.raises(MediaError, match="lies where credentials usually do"):
            decoder.begin(str(tmp_path / "secret.mp4"))
            decoder.ask("probe", path=str(tmp_path / "secret.mp4"))
    finally:
        decoder.end()


def test_what_is_named_holds_all_but_the_places(tmp_path):
    for name in ("a/b/secret", "a/b/other", "a/c", "d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = list(named(str(tmp_path), [str(tmp_path / "a/b/secret")]))
    assert found == [str(tmp_path / name) for name in ("a/b/other", "a/c", "d")]
    assert "/proc" in secret_places() or not Path("/proc").exists()
