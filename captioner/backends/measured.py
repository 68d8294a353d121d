"""The `measured` backend: captions that state only what was measured.

No weights, no guesses, no object is ever named.

The zero-download default for real footage, and the source of facts that check the other backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captioner.gates.answers import fields_text
from captioner.gates.told import CAMERA
from captioner.protocol import Caption, ClipFrames, Provenance

_MIN_CONFIDENCE = 0.45  # on film-world shots, all claims above it were right (tests/world)


def orientation(facts: dict) -> str:
    """landscape, portrait or square, by the shown size."""
    ratio = facts["width_px"] / facts["height_px"]
    return "landscape" if ratio > 1.05 else "portrait" if ratio < 0.95 else "square"


def brightness(facts: dict) -> str:
    mean = facts["luma_mean"]
    return (
        "very dark"
        if mean < 0.12
        else "dark"
        if mean < 0.3
        else "bright"
        if mean > 0.65
        else "moderately bright"
    )


def movement(facts: dict) -> str:
    motion = facts["motion"] or 0.0
    return (
        "nothing moves"
        if facts["frozen_share"] > 0.95
        else "there is little motion"
        if motion < 0.25
        else "there is steady motion"
        if motion < 1.2
        else "there is fast motion"
    )


class MeasuredCaptioner:
    """Turns a clip's measurements into a short, a dense and a structured caption."""

    name, version = "measured", "measured/3"
    at_once = 1

    def setup(self) -> None:
        """Nothing to load."""

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        return [self._one(clip.facts) for clip in clips]

    def _one(self, facts: dict) -> list[Caption]:
        is_image = facts["kind"] == "image" or facts["num_frames"] == 1
        kind, shape, light = "picture" if is_image else "video", orientation(facts), brightness(facts)
        article = "an" if light[0] in "aeiou" else "a"
        colors = (facts["palette"] or [])[:3]
        hues = " and ".join(filter(None, [", ".join(colors[:-1]), colors[-1] if colors else ""]))
        fields: dict[str, Any] = {"style": f"{shape} {kind}", "lighting": light, "actions": []}
        opening = f"{article.capitalize()} {light} {shape} {kind}"
        sentences = [f"{opening}, mostly {hues}" if hues else opening]
        if not is_image:
            fields["actions"] = [movement(facts)]
            sentences.append(fields["actions"][0][0].upper() + fields["actions"][0][1:])
            cuts = len(facts.get("cuts_s") or [])
            if (
                not cuts
                and facts["camera"] in CAMERA
                and (facts["camera_confidence"] or 0) >= _MIN_CONFIDENCE
            ):
                fields["camera"] = {
                    "tag": facts["camera"],
                    "confidence": facts["camera_confidence"],
                    "source": "measured",
                }
                sentences.append(CAMERA[facts["camera"]])
            sentences += (
                [f"The shot changes at least {'once' if cuts == 1 else f'{cuts} times'}"] if cuts else []
            )
            if not facts.get("is_part"):
                sentences.append(f"It lasts {facts['end_s'] - facts['start_s']:.1f} seconds")
        dense = ". ".join(sentences) + "."
        short = f"{article} {light} {kind}{' in ' + colors[0] if colors else ''}"
        common: dict[str, Any] = {
            "source": self.name,
            "provenance": Provenance(backend=self.name, model=self.version),
        }
        return [
            Caption(kind="short", text=short, **common),
            Caption(kind="dense", text=dense, fields=fields, **common),
            Caption(kind="structured", text=fields_text(fields), fields=fields, **common),
        ]
