"""Addresses that carry a key to what they name, as they may be written down: with the key sealed.

`https://user:password@host/x.mp4` and `https://host/x.mp4?X-Amz-Signature=...` become
`https://host/x.mp4?rushes-sealed=...`: nobody reads the key from a table, an event or a message, and stages
open the file all the same. One address always becomes the same sealed one, so that a run that goes on knows
it again. A seal holds for its host alone.

The secret that seals is this user's: RUSHES_SEAL in the environment, else a file of mode 600 that is made
when it is first needed (`RUSHES_SEAL_FILE`, by default ~/.config/rushes/seal). Processes of a cluster are
given it by the one that started them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from manifests.errors import UsageError
from manifests.text import SEALED, holds_secret, may_let_in, split_user
from media.bytes.tar_member import split_member
from media.errors import MediaError

_ADDRESS = re.compile(r"(?P<scheme>\w+)://(?P<host>[^/?#@]*)(?P<rest>.*)", re.DOTALL)
"""Of addresses without a user."""
_PARAMETER = f"{SEALED}="
_PATH_PARAMETERS = re.compile(r";[^/]*")
_WEB = ("http", "https")
_BYTES = 32
_given: bytes | None = None


def use_secret(secret: bytes | None) -> None:
    """Open sealed addresses by this secret, in this process; None: by this user's own."""
    global _given  # noqa: PLW0603 - one for the whole process
    _given = secret


def secret_if_there() -> bytes | None:
    """The secret of this process or user; None where nothing was ever sealed.

    Raises:
        UsageError: it is none, or cannot be read.
    """
    if _given is not None:
        return _given
    text, where = os.environ.get("RUSHES_SEAL", ""), "RUSHES_SEAL"
    try:
        if not text:
            path = _file()
            where = str(path)
            text = path.read_text() if path.is_file() else ""
        found = base64.urlsafe_b64decode(text)
    except (PermissionError, RuntimeError):  # another's home, or none: this user has sealed nothing
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            where,
            f"cannot be read as the secret of sealed addresses ({error})",
            "Give the one by which they were sealed.",
        ) from error
    if not found:
        return None
    if len(found) != _BYTES:
        raise UsageError(where, f"holds {len(found)} bytes and not {_BYTES}", "Give the secret that sealed.")
    return found


def sealed(uri: str) -> str:
    """The address as it may be written down; the same where it holds no key."""
    user, bare = split_user(uri)
    match = _ADDRESS.fullmatch(bare)
    if match is None:
        return uri
    before, hash_mark, member = match["rest"].partition("#")  # the member of a tar, whatever its name holds
    if hash_mark and match["scheme"].lower() in _WEB and split_member(bare) is None:
        return sealed(uri.partition("#")[0])  # what a browser keeps to itself, as a token of a sign-in
    path, _, query = before.partition("?")
    is_secret, has_secret_path = may_let_in(f"?{query}"), holds_secret(path)
    if not user and not is_secret and not has_secret_path:
        return uri
    whole = json.dumps([user, query if is_secret else None, *([path] if has_secret_path else [])])
    held, path = whole.encode(), _PATH_PARAMETERS.sub("", path) if has_secret_path else path
    text = base64.urlsafe_b64encode(_cipher(secret_or_new()).encrypt(held, [_whose(match)])).decode()
    kept = [query] if query and not is_secret else []
    return (
        f"{match['scheme']}://{match['host']}{path}?{'&'.join([*kept, _PARAMETER + text])}{hash_mark}{member}"
    )


def unsealed(uri: str) -> str:
    """The address to open; the same where nothing is sealed.

    Raises:
        MediaError: it was sealed by another secret, or is for another host.
    """
    match = _ADDRESS.fullmatch(split_user(uri)[1])
    if match is None or _PARAMETER not in uri:
        return uri
    before, hash_mark, member = match["rest"].partition("#")
    path, _, query = before.partition("?")
    parts = query.split("&")
    seals = [part for part in parts if part.startswith(_PARAMETER)]
    if len(seals) != 1:
        return uri
    user, whole, *own_path = _opened(seals[0].removeprefix(_PARAMETER), match)
    path = own_path[0] if own_path else path
    query = "&".join(part for part in parts if part not in seals) if whole is None else whole
    at = f"{user}@" if user else ""
    mark = "?" if query else ""
    return f"{match['scheme']}://{at}{match['host']}{path}{mark}{query}{hash_mark}{member}"


def keyless(uri: str) -> str:
    """A sealed address without its seal: the same whoever sealed it."""
    before, hash_mark, member = uri.partition("#")
    path, _, query = before.partition("?")
    kept = "&".join(part for part in query.split("&") if not part.startswith(_PARAMETER))
    return uri if _PARAMETER not in before else f"{path}{'?' if kept else ''}{kept}{hash_mark}{member}"


def _opened(text: str, match: re.Match[str]) -> list[Any]:
    """User, query (None where it stands in the open) and, where it held a key, path."""
    from cryptography.exceptions import InvalidTag

    secret = secret_if_there()
    try:
        if secret is None:
            raise ValueError("this user has sealed none")
        held = _cipher(secret).decrypt(base64.urlsafe_b64decode(text), [_whose(match)])
        parts: list[Any] = json.loads(held)
    except (InvalidTag, ValueError) as error:
        raise MediaError(
            "sealed_elsewhere",
            f"{match['scheme']}://{match['host']}: its key was sealed by another user or for another host "
            f"({error or 'the seal does not fit'}). Give RUSHES_SEAL of who planned it, or its list again.",
        ) from error
    return parts


def _whose(match: re.Match[str]) -> bytes:
    return f"{match['scheme']}://{match['host']}".encode("utf-8", "surrogatepass")


def _cipher(secret: bytes):  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(secret)


def _file() -> Path:
    return Path(os.environ.get("RUSHES_SEAL_FILE") or Path.home() / ".config" / "rushes" / "seal")


def secret_or_new() -> bytes:
    """The secret, made and kept if there is none.

    Raises:
        UsageError: it cannot be kept.
    """
    if (found := secret_if_there()) is not None:
        return found
    try:
        path = _file()
    except RuntimeError as error:
        raise UsageError(
            "RUSHES_SEAL_FILE", f"is needed here ({error})", "Set it to a file of yours."
        ) from error
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)))
        with contextlib.suppress(FileExistsError):  # of two at once the first counts
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise UsageError(
            str(path),
            f"cannot hold the secret of addresses with keys ({error.strerror})",
            "Set RUSHES_SEAL_FILE to a place that you may write.",
        ) from error
    if (found := secret_if_there()) is None:
        raise UsageError(str(path), "cannot be read", "Set RUSHES_SEAL_FILE to a place of yours.")
    return found
