"""Backends by name. Each is imported when asked for: a captioning process need not load a text encoder's libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captioner.protocol import Captioner
from manifests.errors import UsageError

if TYPE_CHECKING:
    from captioner.text_encoder import TextEncoder


def make_captioner(name: str) -> Captioner:
    """The captioner backend of that name.

    Raises:
        UsageError: there is none.
    """
    if name == "measured":
        from captioner.measured import MeasuredCaptioner

        return MeasuredCaptioner()
    if name == "given":
        from captioner.given import GivenCaptioner

        return GivenCaptioner()
    raise UsageError(f"captioner {name}", "is not a backend", "Backends: measured, given.")


def make_text_encoder(name: str) -> TextEncoder:
    """The text encoder of that name.

    Raises:
        UsageError: there is none.
    """
    if name == "hashed-words":
        from captioner.text_encoder import HashedWordEncoder

        return HashedWordEncoder()
    raise UsageError(f"text encoder {name}", "is not known", "Encoders: hashed-words.")
