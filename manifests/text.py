"""Text from outside: made valid Unicode, so that one bad caption spoils nothing but itself, and shown without
the secrets that addresses carry.
"""

from __future__ import annotations

import codecs
import re
from typing import Any
from urllib.parse import quote, unquote

WIDE = {  # the longer mark first: that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Marks at the beginning of text files that are no UTF-8, and what they are."""

_USER = re.compile(
    r"(?:(?<=\bs3://)|(?<=\bgs://)|(?<=\bgcs://))[^\s?#/:@]+:[^\s?#@]*@"  # a secret may hold slashes
    r"|(?<=://)[^/\s?#]+@"
    r"|(?<=://)(?!\[)[^\s?#/:@]+:(?!\d+/)[^\s?#@]*@"  # one with a slash, which no port is
)
_WEB = re.compile(r"https?://\S+")
_QUERY = re.compile(r"(?<=\?)[^\s#'\",;)]+")
_PARAMETER = re.compile(r"([?&;#])([^\s=?&;#/]+)=([^&;#\s]+)")
"""Of an address: what stands before it, its name, its value."""
_SECRET_NAME = re.compile(
    r"x-\w+-[\w-]+|.*(?:signature|token|secret|passw|credential|sessionid|authoriz).*"
    r"|(?:.*[-_.])?(?:sig|key|auth|hmac|pwd|pw|pass|policy|jwt|hash|md5|verify|verifier|ticket)"
    r"|hmac[-_\w]*|sha[-_]?\d+|code|sid|st|authkey|bearer|session|rlkey|cookie|__\w+__"
    r"|(?:api|access|aws)[-_]?(?:access)?key(?:id)?|googleaccessid|key-pair-id|hdnts|hdnea",
    re.IGNORECASE,
)
"""Names of parameters that let one in, and of what else is nobody's business."""
SEALED = "rushes-sealed"
"""The parameter that holds what was sealed of an address (`media/bytes/sealed.py`)."""
_TOKEN = re.compile(r"(?=[A-Za-z]*\d)[A-Za-z\d]{32,}")
"""What no title or number is: so many letters and digits in a row."""


def shown(text: str) -> str:
    """The text without user and password of addresses, and without the query of http addresses."""
    if "://" not in text:
        return text
    text = _masked(_USER.sub("***@", text))
    return _WEB.sub(lambda match: _QUERY.sub("...", match.group()), text)


def shown_json(value: Any) -> Any:
    """The same of every text in a value as JSON has it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: shown_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_json(item) for item in value]
    return value


def split_user(address: str) -> tuple[str, str]:
    """User and password of an address, empty where it has none, and the address without them."""
    begin = address.find("://") + 3
    found = _USER.match(address, begin) if begin > 2 else None
    return (found.group()[:-1], address[:begin] + address[found.end() :]) if found else ("", address)


def spelt(address: str) -> str:
    """An object's address as listings of stores spell it, however a list did; any other address as it is."""
    scheme, mark, rest = address.partition("://")
    if scheme not in ("s3", "gs", "gcs"):
        return address
    whole, hash_mark, member = rest.partition("#")
    path, query_mark, query = whole.partition("?")
    return f"{scheme}{mark}{quote(unquote(path))}{query_mark}{query}{hash_mark}{member}"


def last_name(place: str) -> str:
    """The last part of a path or address, without the folders before it and without what lets one in."""
    path = split_user(place)[1]
    return (path.partition("?")[0] if "://" in path else path).rstrip("/").rpartition("/")[2]


def _is_secret(name: str, value: str) -> bool:
    """Whether a parameter lets one in, by its name however it is spelt, or by an address that it holds."""
    plain = unquote(unquote(name)).strip().removesuffix("[]")
    if name == SEALED:
        return False
    if _SECRET_NAME.fullmatch(plain) or _TOKEN.search(value):
        return True
    nested = unquote(value)
    return "://" in nested and nested != value and holds_secret(nested)


def _masked(text: str) -> str:
    """The text without the values of such parameters."""

    def mask(match: re.Match[str]) -> str:
        before, name, value = match.groups()
        return f"{before}{name}=..." if _is_secret(name, value) else match[0]

    return _PARAMETER.sub(mask, text)


def holds_secret(text: str) -> bool:
    """Whether a query in the text has a parameter that is a key, a token or a signature."""
    return any(_is_secret(name, value) for _, name, value in _PARAMETER.findall(text))


def may_let_in(query: str) -> bool:
    """Whether a query, with its question mark, may be a key by any name, or by none."""
    bare = (part for part in query.lstrip("?").split("&") if "=" not in part)
    return holds_secret(query) or any(map(_TOKEN.search, bare))


def without_secrets(value: Any) -> Any:
    """A value as JSON has it without what addresses in it let one in by: users, passwords, signed queries.

    Other parts of a query stay, as they may be what tells a page: `watch?v=...`.
    """
    if isinstance(value, str):
        return _masked(_USER.sub("***@", value)) if "://" in value else value
    if isinstance(value, dict):
        return {
            without_secrets(key): "..."
            if _is_secret_field(value.get("name") if str(key).lower() == "value" else key, item)
            else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        if len(value) == 2 and _is_secret_field(value[0], value[1]):
            return [value[0], "..."]
        return [without_secrets(item) for item in value]
    return value


_SECRET_FIELD = re.compile(
    r"(?:proxy-)?authorization|(?:set-)?cookies?|passw(?:or)?d|pwd|(?:client_?)?secret|bearer"
    r"|(?:x-)?api[-_]?key|private[-_]?key|.*token|.*signature",
    re.IGNORECASE,
)


def _is_secret_field(name: Any, value: Any) -> bool:
    """Whether a field that somebody tells of a file is a key, as headers of a request beside its address."""
    is_text = bool(value) and not isinstance(value, bool | int | float)
    return is_text and isinstance(name, str) and _SECRET_FIELD.fullmatch(name.strip()) is not None


def valid(text: str) -> str:
    """The text without NUL, and without lone surrogates, as a caption cut inside an emoji has them.

    Of these each becomes U+FFFD.
    """
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_MOST_DEPTH = 200


def valid_json(value: Any, depth: int = 0) -> Any:
    """The same of every text in a value as JSON has it; what lies too deep is left out."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, dict | list | tuple) and depth > _MOST_DEPTH:
        return None
    if isinstance(value, dict):
        return {valid(str(key)): valid_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [valid_json(item, depth + 1) for item in value]
    return value


def decoded(data: bytes) -> str:
    """Bytes of a text file: UTF-8, or what their byte order mark says, or UTF-16 by its many NUL bytes.

    Raises:
        UnicodeDecodeError: they are none of it.
    """
    encoding = next((name for mark, name in WIDE.items() if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and (at := data.find(b"\0")) >= 0:
        head = data[:_LOOKED_AT_BYTES]
        wide = {"utf-16-le": head[1::2], "utf-16-be": head[::2]}
        nulls = {name: half.count(0) / max(1, len(half)) for name, half in wide.items()}
        encoding = max(nulls, key=lambda name: nulls[name])
        if nulls[encoding] < _MANY_NULLS or len(data) % 2:
            raise UnicodeDecodeError("utf-8", data[at : at + 1], 0, 1, f"a NUL byte at {at}: this is no text")
    return data.decode(encoding)


_LOOKED_AT_BYTES, _MANY_NULLS = 1 << 12, 0.4
