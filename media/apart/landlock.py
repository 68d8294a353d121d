"""Files that a decoder's process may open: all that its user may read, but where secrets lie.

By Landlock (Linux 5.13 and later, `landlock(7)`). What is not named to it is refused, so everything is named
but those places: a folder that holds one of them is named entry by entry, and what is put there later is not
read by a process that runs. A process under Landlock may not look into one that is not, either: `/proc` does
not give it the environment or the memory of the process that asks.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

NAMING = (
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "RAY_AUTH_TOKEN_PATH",
    "HF_TOKEN_PATH",
    "KUBECONFIG",
    "RUSHES_SEAL_FILE",
)
"""Variables that say where a secret lies."""
_IN_HOME = (
    *(".aws", ".azure", ".boto", ".config/gcloud", ".config/rushes", ".docker", ".git-credentials"),
    *(".gnupg", ".kube"),
    *(".huggingface", ".cache/huggingface/token", ".cache/huggingface/stored_tokens", ".netrc", ".npmrc"),
    *(".pgpass", ".pypirc", ".ray", ".ssh", ".bash_history", ".python_history"),
)
_OF_THE_SYSTEM = (
    *(
        "/proc",
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/etc/gshadow-",
        "/etc/ssh",
        "/etc/ssl/private",
    ),
    *("/run/secrets", "/var/run/secrets"),
)
_OF_PROC = ("cpuinfo", "filesystems", "loadavg", "meminfo", "self", "stat", "sys", "uptime", "version")
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_ALL_RIGHTS = (1 << 13) - 1  # those of the first version
_BENEATH, _NO_NEW_PRIVILEGES = 1, 38
_OF_DRIVERS = ("devices", "driver", "modules")
_MOST_ENTRIES = 5000
_A_WHILE_S = 5.0


def secret_places(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Files and folders that are there and hold what lets one in, links followed."""
    told = [environment.get(name, "") for name in NAMING]
    told += environment.get("KUBECONFIG", "").split(os.pathsep)  # which may be several
    home = os.path.expanduser("~")
    told = [*map(os.path.expanduser, filter(None, told)), *(os.path.join(home, name) for name in _IN_HOME)]
    # never raises, unlike Path.exists: what is below a folder that may not be searched is not there for us
    there = filter(os.path.exists, (*told, *_OF_THE_SYSTEM))
    return sorted(map(os.path.realpath, there))


def lies_among_secrets(path: str) -> bool:
    """Whether what a path leads to is one of the secret places, or lies in one."""
    place, told = os.path.realpath(path), tuple(os.environ.get(name, "") for name in NAMING)
    secrets = _for_a_while(told, os.path.expanduser("~"), int(time.monotonic() / _A_WHILE_S))
    return any(place == secret or place.startswith(f"{secret}/") for secret in secrets)


@lru_cache(4)
def _for_a_while(told: tuple[str, ...], home: str, moment: int) -> tuple[str, ...]:
    """The secret places of this environment, looked for once in a while: a listing asks a million times."""
    return tuple(secret_places())


def named(root: str, places: list[str]) -> Iterator[str]:
    """The fewest files and folders that hold all below `root` but these places."""
    if root in places:
        return
    if not any(place.startswith(root.rstrip("/") + "/") for place in places):
        yield root
        return
    try:
        with os.scandir(root) as found:
            entries = sorted(islice(found, _MOST_ENTRIES + 1), key=lambda entry: entry.name)
    except OSError:
        return
    if len(entries) > _MOST_ENTRIES:  # to name each would take seconds: what lies there is not kept from it
        yield root
        return
    for entry in entries:
        if not entry.is_symlink():  # what it leads to is named where it lies
            yield from named(entry.path, places)


def devices() -> list[str]:
    """Those of NVIDIA's driver."""
    return sorted(map(str, Path("/dev").glob("nvidia*")))


def keep_from_secrets(written: Sequence[str] = ()) -> bool:
    """Take away from this thread, and from those it starts, for good, the files where secrets lie.

    Args:
        written: devices, the only files that may be written to.

    Returns:
        Whether this system can.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    rights = struct.pack("<Q", _ALL_RIGHTS)
    ruleset = kernel.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if ruleset < 0:
        return False
    try:
        of_proc = (*_OF_PROC, *_OF_DRIVERS) if written else _OF_PROC
        for path in (*named("/", secret_places()), *(f"/proc/{name}" for name in of_proc)):
            _allow(kernel, ruleset, path)
        for path in written:
            _allow(kernel, ruleset, path, _WRITE_FILE)
        is_kept = kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        return is_kept and kernel.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(kernel: ctypes.CDLL, ruleset: int, path: str, more: int = 0) -> None:
    """Let a file, or all below a folder, be read; one that is gone, or may not be opened, is left out.

    Args:
        more: rights beside that.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = more | (_READ_FILE | _READ_DIR if Path(path).is_dir() else _READ_FILE)
        kernel.syscall(_ADD_RULE, ruleset, _BENEATH, struct.pack("<Qi", rights, place), 0)
    finally:
        os.close(place)
