"""Backends by name.

Each is imported when asked for: a captioning process need not load a text encoder's libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from captioner.options import CaptionerOptions
from captioner.protocol import Captioner
from captioner.windows import Windowed
from manifests.errors import UsageError

if TYPE_CHECKING:
    from captioner.language.text_encoder import TextEncoder


def _measured(options: CaptionerOptions) -> Captioner:
    from captioner.backends.measured import MeasuredCaptioner

    return MeasuredCaptioner()


def _given(options: CaptionerOptions) -> Captioner:
    from captioner.backends.given import GivenCaptioner

    return GivenCaptioner()


def _coca(options: CaptionerOptions) -> Captioner:
    from captioner.coca.backend import CocaCaptioner

    return Windowed(CocaCaptioner(options), options.window_s)


def _transformers(options: CaptionerOptions) -> Captioner:
    from captioner.backends.vlm import VlmCaptioner

    return Windowed(VlmCaptioner(options), options.window_s)


def _openai(options: CaptionerOptions) -> Captioner:
    from captioner.backends.server import ServerCaptioner

    return Windowed(ServerCaptioner(options), options.window_s)


CAPTIONERS: dict[str, Callable[[CaptionerOptions], Captioner]] = {
    "measured": _measured,
    "given": _given,
    "coca": _coca,
    "transformers": _transformers,
    "openai": _openai,
}
KINDS = {"short", "dense", "structured"}
TEXT_ENCODERS = ("hashed-words", "coca", "open_clip", "transformers")


def make_captioner(options: CaptionerOptions | str) -> Captioner:
    """The captioner that the options name; a bare name stands for its default options.

    Raises:
        UsageError: there is none of that name, or what it needs is missing.
    """
    options = replace(CaptionerOptions(), captioner=options) if isinstance(options, str) else options
    if unknown := set(options.kinds) - KINDS:
        raise UsageError(
            f"--kinds {' '.join(sorted(unknown))}",
            "is not what a captioner writes",
            f"Kinds: {', '.join(sorted(KINDS))}.",
        )
    if options.captioner not in CAPTIONERS:
        raise UsageError(
            f"captioner {options.captioner}", "is not a backend", f"Backends: {', '.join(CAPTIONERS)}."
        )
    return CAPTIONERS[options.captioner](options)


def make_text_encoder(name: str, model: str = "") -> TextEncoder:
    """The text encoder of that name.

    Args:
        model: coca: folder of weights (empty: the small ones that come with the project); open_clip:
            `local-dir:FOLDER` or a name; transformers: folder or hub id.

    Raises:
        UsageError: there is none of that name.
    """
    if name == "hashed-words":
        from captioner.language.text_encoder import HashedWordEncoder

        return HashedWordEncoder()
    if name in TEXT_ENCODERS:
        from captioner.backends import text_towers

        return text_towers.make(name, model)
    raise UsageError(f"text encoder {name}", "is not known", f"Encoders: {', '.join(TEXT_ENCODERS)}.")


def make_upsampler(
    server: str = "", model: str = "", phrases: Mapping[str, Any] | None = None
) -> Callable[..., str]:
    """A prompt upsampler: of phrases learnt from captions, or a server's model that falls back on them.

    Args:
        phrases: of the captions that a generator was trained on; None: of the committed captioner's.

    Raises:
        UsageError: of server and model one was given alone.
    """
    if bool(server) != bool(model):
        given, lacking = ("a server", "model") if server else ("a model", "server")
        raise UsageError(f"{given} for prompts", f"needs a {lacking}, too", "Give both, or none.")
    from captioner.backends.asking import asker
    from captioner.coca.folder import DEFAULT_WEIGHTS
    from captioner.language.upsample import PhraseUpsampler, model_upsampler

    path = DEFAULT_WEIGHTS / "phrases.json"
    if phrases is not None:
        usual = PhraseUpsampler.of(phrases)
    else:
        usual = PhraseUpsampler.load(path) if path.exists() else PhraseUpsampler()
    return model_upsampler(asker(server, model), usual) if server else usual
