"""A decoder that is taken over reads footage, and no secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from media.apart.landlock import named, secret_places
from media.apart.process import Decoder
from media.errors import MediaError

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
    (home / "link").symlink_to(home / ".aws" / "credentials")
    (tmp_path / "token").write_text("x")
    said = tried(
        *(home / name for name in (".aws/credentials", ".ssh/id", ".netrc", "link")),
        tmp_path / "token",
        f"/proc/{os.getpid()}/environ",
        *(home / name for name in (".config/other", "footage/a", "b")),
        "/proc/self/status",
        "/proc/cpuinfo",
        sys.executable,
        HOME=str(home),
        GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "token"),
    )
    assert said == ["PermissionError"] * 6 + ["read"] * 6


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
        with pytest.raises((MediaError, OSError), match=r"[Pp]ermission|may not be read"):
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
