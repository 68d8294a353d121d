"""Object stores that datasets lie on, through `obstore`, as a filesystem that pyarrow reads from.

Why obstore: it retries what is transient (timeouts, throttling, 5xx) with growing, jittered pauses, takes
ranges without asking for the size first, and can create an object only where there is none, which no other
of our libraries can. Nothing is written through `open_output_stream`: leaving a stream in an error would
publish half an object. What is written goes through `manifests.store.storage`.

Footage on a store is read through `pyarrow.fs` (`media.bytes.access`): one key with an empty part
(`a//b.mp4`), which obstore cannot name, would end the listing of a whole bucket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PreconditionError,
)
from obstore.store import GCSStore, S3Store
from pyarrow import fs

from manifests.errors import UsageError
from manifests.store.ranged import listed, opened_object, said
from manifests.text import split_user

SCHEMES = ("s3", "gs", "gcs")
OPTIONS = ("endpoint_override", "scheme", "region", "anonymous")
"""What the query of an address may say."""
RETRIES: Any = {
    "max_retries": 20,
    "retry_timeout": timedelta(minutes=1),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=20), "base": 2},
}
_LATE_READS, _LATE_S = 5, 0.5
_TRIAL = b"written to see whether this store heeds conditions\n"
_CARELESS = (
    "this store writes over what is there, though it is told not to (If-None-Match, If-Match): two writers "
    "would spoil a dataset. Use one that heeds conditions"
)
_TIMEOUTS: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=15)}


class ObjectStore(fs.FileSystemHandler):
    """A store as pyarrow sees it: paths are `bucket/key`.

    Args:
        scheme: s3 or gs.
        options: those of `OPTIONS`, and `access_key` and `secret_key`.
    """

    def __init__(self, scheme: str, options: dict[str, str]) -> None:
        self.scheme, self.options = scheme, options
        self._stores: dict[str, Any] = {}
        self._checked: set[str] = set()  # buckets that heed conditions

    def at(self, path: str) -> tuple[Any, str]:
        """The store of a path's bucket, and the key."""
        bucket, _, key = path.strip("/").partition("/")
        if bucket not in self._stores:
            self._stores[bucket] = self._opened(bucket)
        return self._stores[bucket], key

    def _opened(self, bucket: str) -> Any:
        if self.scheme != "s3":
            return GCSStore(bucket, retry_config=RETRIES, client_options=_TIMEOUTS)
        options = self.options
        config: Any = {}
        if host := options.get("endpoint_override"):
            config["endpoint"] = host if "://" in host else f"{options.get('scheme', 'https')}://{host}"
        if region := options.get("region") or os.environ.get("AWS_DEFAULT_REGION"):
            config["region"] = region
        if options.get("anonymous", "").lower() in {"1", "true"}:
            config["skip_signature"] = True
        if key := options.get("access_key"):
            config |= {"access_key_id": key, "secret_access_key": options.get("secret_key", "")}
        endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
        client: Any = {**_TIMEOUTS, "allow_http": endpoint.startswith("http://")}
        return S3Store(bucket, config=config, client_options=client, retry_config=RETRIES, **_profile(config))

    def get_type_name(self) -> str:
        return self.scheme

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self.scheme, self.options) == (other.scheme, other.options)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.scheme, *sorted(self.options.items())))

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        store, key = self.at(path)
        if not key:
            return fs.FileInfo(path, fs.FileType.Directory)
        with said(path):
            try:
                found = obstore.head(store, key)
                return _file_info(path, found)
            except (NotFoundError, FileNotFoundError):
                below = listed(lambda: next(iter(obstore.list(store, prefix=key, chunk_size=1)), None))
        return fs.FileInfo(path, fs.FileType.Directory if below else fs.FileType.NotFound)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        store, key = self.at(selector.base_dir)
        bucket = selector.base_dir.strip("/").partition("/")[0]
        with said(selector.base_dir):
            if selector.recursive:
                items = listed(lambda: _all_below(store, key))
                folders = []
            else:
                found = listed(lambda: obstore.list_with_delimiter(store, prefix=key or None))
                items, folders = list(found["objects"]), list(found["common_prefixes"])
        if not items and not folders and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return [_file_info(f"{bucket}/{item['path']}", item) for item in items] + [
            fs.FileInfo(f"{bucket}/{folder}", fs.FileType.Directory) for folder in folders
        ]

    def open_input_file(self, path: str) -> pa.PythonFile:
        store, key = self.at(path)
        return opened_object(store, key, path)

    open_input_stream = open_input_file

    def read(self, path: str) -> bytes:
        """All of an object, by one request."""
        store, key = self.at(path)
        with said(path):
            return bytes(obstore.get(store, key).bytes())

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Bytes from an offset, by one request where they are all there; short at the object's end."""
        store, key = self.at(path)
        if not size_bytes:
            return b""
        with said(path):
            try:
                return bytes(obstore.get_range(store, key, start=offset, length=size_bytes))
            except NotFoundError:
                raise
            except BaseError:
                left = obstore.head(store, key)["size"] - offset
                if left >= size_bytes:
                    raise
                return bytes(obstore.get_range(store, key, start=offset, length=left)) if left > 0 else b""

    def upload(self, path: str, body: bytes | Path) -> None:
        """Make an object, or put another in its place; it appears when it is complete."""
        store, key = self.at(path)
        with said(path):
            obstore.put(store, key, body)

    def create(self, path: str, data: bytes) -> bool:
        """Make an object where there is none. Returns whether this call made it."""
        store, key = self.at(path)
        with said(path):
            try:
                obstore.put(store, key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return self._is_own(store, key, data)
        return True

    def swap(self, path: str, data: bytes, before: bytes) -> bool:
        """Put another object in the place of one that still holds `before`. Returns whether this call did."""
        store, key = self.at(path)
        with said(path):
            try:
                found = obstore.get(store, key)
                if bytes(found.bytes()) != before:
                    return False
                version: Any = {
                    name: found.meta[name] for name in ("e_tag", "version") if found.meta[name] is not None
                }
                obstore.put(store, key, data, mode=version)
            except (PreconditionError, AlreadyExistsError):
                return self._is_own(store, key, data)
            except (NotFoundError, FileNotFoundError):
                return False
        return True

    @staticmethod
    def _is_own(store: Any, key: str, data: bytes) -> bool:
        """Whether a create that was refused had succeeded before its answer was lost and it was retried.

        Equal bytes of two writers are as good as one.
        """
        for _ in range(_LATE_READS):
            try:
                return bytes(obstore.get(store, key).bytes()) == data
            except (NotFoundError, FileNotFoundError):  # a store that shows late what it has
                time.sleep(_LATE_S)
        return False

    def check_conditions(self, path: str) -> None:
        """Try with a small object that the store heeds conditions: all that is committed rests on them.

        Args:
            path: of that object, which stays: of two that try at once neither may take it from the other.

        Raises:
            OSError: it does not.
        """
        bucket = path.strip("/").partition("/")[0]
        if bucket in self._checked:
            return
        store, key = self.at(path)
        refusals = AlreadyExistsError, PreconditionError
        with said(path):
            with contextlib.suppress(*refusals):  # it is there already
                obstore.put(store, key, _TRIAL, mode="create")
            found: Any = obstore.head(store, key)
            stale: Any = {"e_tag": f'"{"0" * 32}"', "version": "0"}
            modes: list[Any] = ["create", {name: stale[name] for name in stale if found[name] is not None}]
            for mode in modes:
                with contextlib.suppress(*refusals):
                    obstore.put(store, key, _TRIAL, mode=mode)
                    raise OSError(errno.ENOTSUP, _CARELESS, path)
        self._checked.add(bucket)

    def delete_file(self, path: str) -> None:
        store, key = self.at(path)
        with said(path):
            obstore.delete(store, key)

    def delete_files(self, paths: Sequence[str]) -> None:
        """Remove objects, a thousand a request; those that are gone already stay so."""
        for begin in range(0, len(paths), 1000):
            some = paths[begin : begin + 1000]
            store, _ = self.at(some[0])
            with said(some[0]):
                obstore.delete(store, [self.at(path)[1] for path in some])

    def delete_dir(self, path: str) -> None:
        store, key = self.at(path)
        with said(path):
            items = listed(lambda: _all_below(store, key))
            for begin in range(0, len(items), 1000):
                obstore.delete(store, [item["path"] for item in items[begin : begin + 1000]])

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Stores have no folders to make."""

    def _not_here(self, *_: object, **__: object) -> Any:
        raise NotImplementedError("objects are written by manifests.store.storage")

    open_output_stream = open_append_stream = move = copy_file = delete_root_dir_contents = _not_here


def _all_below(store: Any, key: str) -> list[Any]:
    return [item for piece in obstore.list(store, prefix=key or None, chunk_size=1000) for item in piece]


def _file_info(path: str, found: Any) -> fs.FileInfo:
    return fs.FileInfo(path, fs.FileType.File, size=found["size"], mtime=found["last_modified"])


def _profile(config: dict[str, Any]) -> dict[str, Any]:
    """Credentials of the AWS tools' profile, where nothing else gives any and boto3 is there to read it.

    Raises:
        UsageError: a profile is named, and boto3 is not there.
    """
    if "access_key_id" in config or "skip_signature" in config or "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if name := os.environ.get("AWS_PROFILE"):
            step = "Install boto3, or rushes with its extra `s3`."
            raise UsageError(f"AWS_PROFILE {name}", "cannot be read without boto3", step) from error
        return {}
    session = boto3.Session()
    return {"credential_provider": Boto3CredentialProvider(session)} if session.get_credentials() else {}


def opened(uri: str) -> tuple[fs.PyFileSystem, str]:
    """The filesystem of an address and the path in it.

    Raises:
        ValueError: the address names no bucket, has an option that is not known, or a path that a store
            cannot name.
    """
    user, bare = split_user(uri)
    parts = urlsplit(bare)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := set(options) - set(OPTIONS):
        raise ValueError(f"its query has {', '.join(sorted(unknown))}; known are {', '.join(OPTIONS)}")
    bucket = parts.netloc
    if not bucket:
        raise ValueError("it names no bucket")
    if "#" in bare:
        raise ValueError("a # ends an address: write %23 for one in a name")
    key = unquote(parts.path).rstrip("/").removeprefix("/")
    if key and {"", ".", ".."} & set(key.split("/")):
        raise ValueError("its path has an empty part, or one of dots alone")
    if user:
        access, _, secret = user.partition(":")
        options |= {"access_key": unquote(access), "secret_key": unquote(secret)}
    scheme = "s3" if parts.scheme == "s3" else "gs"
    return fs.PyFileSystem(ObjectStore(scheme, options)), f"{bucket}{unquote(parts.path)}".rstrip("/")


def handler_of(filesystem: fs.FileSystem) -> ObjectStore | None:
    """The store behind a filesystem, if it is one of ours."""
    found = getattr(filesystem, "handler", None)
    return found if isinstance(found, ObjectStore) else None
