"""Places that hold footage: folders, patterns and files here, objects of a store, tars anywhere."""

from __future__ import annotations

import functools
import glob
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pyarrow import fs

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import EXPORT_MARK, SHOWCASE_MARK, is_header
from manifests.store import storage
from manifests.text import split_user
from media.bytes.access import is_local, resolve_store, tar_index
from media.bytes.tar_member import is_tar, split_member
from media.errors import MediaError, shown
from pipeline.footage.found import NOT_MEDIA, Found, beside, split_query, suffix_of
from pipeline.footage.walking import (
    HEADER,
    MOST_HEADER_BYTES,
    OWN_NAMES,
    Walk,
    inside_own_output,
    own_output,
)

_TARS_AT_ONCE = 8
_SIDES = (".json", ".txt")
"""Endings of the files that describe the one beside them."""


def _spelt(ending: str) -> tuple[str, str]:
    """An ending as cameras and other systems write it, too."""
    return ending, ending.upper()


def local_files(path: str) -> list[Found] | None:
    """Files that a local path names: below a folder, itself, or what the pattern matches.

    Returns:
        None where it names nothing.

    Raises:
        UsageError: it is an output of ours.
    """
    root = Path(path)
    try:
        if root.is_dir():
            return Walk(str(root.absolute())).files()
        if root.is_file():
            if what := inside_own_output(root):
                raise UsageError(shown(path), f"lies {what}: no footage", "Name the footage.")
            return [Found(str(root))]
        return _matches(path)
    except OSError:  # a name that is too long, a folder that may not be entered: it fails by itself
        return [Found(path)]


def _matches(pattern: str) -> list[Found] | None:
    """What a pattern names: files, and all below folders that it matches, without outputs of ours."""
    found, own = dict[str, Found](), Counter[str]()
    matches = glob.glob(pattern, recursive=True)
    seen = set[Path]()
    for match in matches:
        path = Path(match)
        if not path.is_dir():  # a loop of links gives one file many names
            if (real := Path(os.path.realpath(path.parent)) / path.name) in seen:
                own["that links give to files that are listed already"] += 1
                continue
            seen.add(real)
        if what := (path.is_dir() and own_output(path)) or inside_own_output(path):
            own[what] += 1
        elif path.is_dir():
            found |= {item.uri: item for item in Walk(str(path.absolute())).files()}
        else:  # what cannot be read, such as a link to nothing, is told when it is probed
            found.setdefault(str(path.absolute()), Found(str(path.absolute())))
    for what, count in own.items():
        say(f"{shown(pattern)}: left out: {count} names {what}")
    return list(found.values()) if found or own else None


def store_files(uri: str) -> list[Found] | None:
    """Objects that a store address names: itself with its JSON and text, or all below a prefix.

    A prefix ends at a slash.

    Returns:
        None where it names nothing.

    Raises:
        UsageError: the store cannot be reached or refuses.
    """
    base, query = split_query(uri)
    scheme, (user, _) = base.partition("://")[0], split_user(base)
    at = "@" if user else ""

    def address(path: str) -> str:
        return f"{scheme}://{user}{at}{quote(path)}{query}"

    try:
        filesystem, path = resolve_store(uri)
        path = path.rstrip("/")
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            beside_it = [posixpath.splitext(path)[0] + side for ending in _SIDES for side in _spelt(ending)]
            sides = [
                Found(address(side.path), size_bytes=side.size)
                for side in map(filesystem.get_file_info, beside_it)
                if side.type == fs.FileType.File and not path.lower().endswith(_SIDES)
            ]
            return [Found(address(path), size_bytes=info.size), *sides]
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except MediaError as error:
        raise UsageError(shown(uri), error.message, "Check the address.") from error
    except OSError as error:
        raise UsageError(
            shown(uri),
            f"cannot be listed ({str(error).splitlines()[0]})",
            "Check the address, the credentials and the region.",
        ) from error
    files = [item for item in infos if item.type == fs.FileType.File]
    above = [str(PurePosixPath(folder) / HEADER) for folder in PurePosixPath(path).parents]
    headers = [item for item in filesystem.get_file_info(above) if item.type == fs.FileType.File]
    own = _own_outputs(filesystem, files)
    for folder in _own_outputs(filesystem, headers):
        own += [folder] if PurePosixPath(path).relative_to(folder).parts[0] in OWN_NAMES else []
    hidden = [item for item in files if _is_hidden(item.path, path)]
    inside = [item for item in files if any(item.path.startswith(folder) for folder in own)]
    for what, items in (("objects with hidden names", hidden), ("objects of outputs of ours", inside)):
        if items:
            say(f"{shown(uri)}: left out: {len(items)} {what}")
    left = {item.path for item in (*hidden, *inside)}
    return [
        Found(address(item.path), size_bytes=item.size) for item in files if item.path not in left
    ] or None


def _is_hidden(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts
    return any(part.startswith(".") and part not in (".", "..") for part in parts)


def _own_outputs(filesystem: fs.FileSystem, files: list[fs.FileInfo]) -> list[str]:
    """Folders of these objects that are outputs of ours, with a slash at the end."""
    headers = [item for item in files if item.base_name == HEADER and item.size <= MOST_HEADER_BYTES]
    found = [item.path for item in headers if is_header(storage.read_bytes(filesystem, item.path))]
    found += [item.path for item in files if item.base_name in (EXPORT_MARK, SHOWCASE_MARK)]
    with_checkpoints = {posixpath.dirname(path) for path in _folders(files) if path.endswith("/checkpoints")}
    told = {posixpath.dirname(item.path) for item in files if item.base_name in ("metrics.jsonl", "run.json")}
    runs = [item.path for item in files if item.base_name == "config.json"]
    found += [path for path in runs if posixpath.dirname(path) in with_checkpoints & told]
    return [f"{posixpath.dirname(path)}/" for path in found]


def inside_dataset_on_store(uri: str) -> str:
    """In which dataset of ours an object lies; nothing for any other."""
    scheme, _, path = split_query(uri)[0].partition("://")
    parts = path.split("/")
    places = [at for at in range(1, len(parts) - 1) if parts[at] in OWN_NAMES]
    folders = (f"{scheme}://{'/'.join(parts[:at])}" for at in places)
    return next((f"in {folder}, a dataset of ours" for folder in folders if _is_dataset(folder)), "")


@functools.lru_cache(1024)
def _is_dataset(folder: str) -> bool:
    try:
        filesystem, path = resolve_store(f"{folder}/{HEADER}")
        info = filesystem.get_file_info(path)
        is_small = info.type == fs.FileType.File and info.size <= MOST_HEADER_BYTES
        return is_small and is_header(storage.read_bytes(filesystem, path))
    except (MediaError, OSError):
        return False


def _folders(files: list[fs.FileInfo]) -> set[str]:
    """All folders that these objects lie in, at whatever depth."""
    direct = {posixpath.dirname(item.path) for item in files}
    return direct | {str(folder) for path in direct for folder in PurePosixPath(path).parents}


def _tar_members(tar: Found) -> list[Found]:
    """Members of a tar with the JSON and text beside them; the tar itself if damaged or empty.

    Beside a member lies what has its name with another ending, else what has its WebDataset key: its name up
    to the first dot.
    """
    try:
        index = tar_index(tar.uri)
    except MediaError:
        return [tar]  # asked for again when it is probed, which records the cause
    found = [] if index.members and not index.damage else [tar]
    left, used, sides = Counter(index.left), set[str](), dict[str, list[str | None]]()
    for name in index.members:
        if posixpath.splitext(name)[1].lower() in NOT_MEDIA:
            continue
        sides[name] = _sides_of_member(name, index.members)
        used |= {side for side in sides[name] if side}
    for name, (_, size) in index.members.items():
        if any(part.startswith(".") and part not in {".", ".."} for part in name.split("/")):
            left["hidden names"] += 1
        elif name not in used:
            beside_it = [side and f"{tar.uri}#{side}" for side in sides.get(name, [None, None])]
            found.append(Found(f"{tar.uri}#{name}", beside_it[0], tar.alt, tar.metadata, beside_it[1], size))
    if left := +left:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(left.items()))
        say(f"{shown(tar.uri)}: left out: {counts}")
    return found


def _sides_of_member(name: str, members: Collection[str]) -> list[str | None]:
    """The JSON and the text beside a member of a tar."""
    folder, _, base = name.rpartition("/")
    key = f"{folder}/{base.split('.', 1)[0]}" if folder else base.split(".", 1)[0]
    stems = (posixpath.splitext(name)[0], key)
    places = [[stem + side for stem in stems for side in _spelt(ending)] for ending in _SIDES]
    return [next((side for side in pair if side in members), None) for pair in places]


def with_tars_opened(found: Iterable[Found]) -> list[Found]:
    """The same with every tar replaced by its members."""
    everything = list(found)
    tars = [item for item in everything if is_tar(item.uri) and not item.refused]
    rest = [item for item in everything if not is_tar(item.uri) or item.refused]
    with ThreadPoolExecutor(_TARS_AT_ONCE) as pool:
        return rest + [member for members in pool.map(_tar_members, tars) for member in members]


def with_sidecars(found: dict[str, Found]) -> list[Found]:
    """Sorted by address, each media file with the `<stem>.json` and `<stem>.txt` beside it.

    Those are left out.
    """
    media = [uri for uri in found if suffix_of(uri) not in NOT_MEDIA]
    found = found | _with_those_in_tars([found[uri] for uri in media])
    sides = {uri: _beside_it(found[uri], found) for uri in media}
    used = {side for own in sides.values() for side in own}
    result = []
    for uri in sorted(found):
        item = found[uri]
        if uri in used:
            continue
        if own := sides.get(uri):
            item = item.joined(Found(uri, sidecar=own[0], caption=own[1]))
        result.append(item)
    return result


def _beside_it(item: Found, found: dict[str, Found]) -> list[str | None]:
    """The JSON and the text of a media file: those it came with, else those beside it."""
    known = (item.sidecar, item.caption)
    return [own or _side(item.uri, ending, found) for own, ending in zip(known, _SIDES, strict=True)]


def _with_those_in_tars(media: Iterable[Found]) -> dict[str, Found]:
    """Members of local tars that lists name one by one, by their address, with what lies beside them."""
    asked: dict[str, list[tuple[Found, str]]] = defaultdict(list)
    for item in media:
        member = None if is_local(item.uri) or item.sidecar or item.caption else split_member(item.uri)
        if member and "://" not in member[0]:  # each of another place would be asked for its tar's index
            asked[member[0]].append((item, member[1]))
    found = dict[str, Found]()
    for tar, items in asked.items():
        try:
            members = tar_index(tar).members
        except MediaError:
            continue  # asked for again when it is probed
        for item, name in items:
            sides = [side and f"{tar}#{side}" for side in _sides_of_member(name, members)]
            found[item.uri] = item.joined(Found(item.uri, sidecar=sides[0], caption=sides[1]))
    return found


def _side(uri: str, ending: str, found: dict[str, Found]) -> str | None:
    """The file beside one with another ending, if there is one."""
    spelt = (beside(uri, side) for side in _spelt(ending))
    return next((side for side in spelt if _is_there(side, found)), None)


def _is_there(side: str, found: dict[str, Found]) -> bool:
    try:
        return side in found or ("://" not in side and Path(side).is_file())
    except OSError:
        return False
