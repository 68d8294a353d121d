"""A clip of a plain tar, believed where its record says what its tensors are.

Such tars come from anywhere. What a record says decides which tokens are laid out, which are padding and when
each is shown, so one that does not fit its latent would be trained on wrongly and in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from manifests.errors import IntegrityError
from trainer.data.tensors import tensors_in
from vae.grid import Extent, latent_size
from vae.stored import mean_and_logvar

MEMBERS = ("json", "latent.safetensors", "text.safetensors")
_SHAPE = ("num_channels", "latent_t", "latent_h", "latent_w")
_COUNTS = (*_SHAPE, "num_frames", "height_px", "width_px", "factor_t", "factor_px")
_STEP = "Make such tars by `rushes export`, or as docs/training.md says."


@dataclass(frozen=True)
class StreamedClip:
    """A clip read whole: its row, captions (id, kind, source), latent and text embeddings.

    latent: mean and log variance [C, t, h, w]; texts: by caption id; where: its tar and key.
    """

    row: dict[str, Any]
    captions: list[tuple[str, str, str]]
    latent: tuple[Tensor, Tensor]
    texts: dict[str, Tensor]
    where: str = ""


def read_clip(sample: Mapping[str, Any]) -> StreamedClip:
    """A sample of webdataset as a clip.

    Raises:
        IntegrityError: a member or a field is missing or damaged, no caption has an embedding, or the record
            is not of the tensors beside it.
    """
    where = f"{sample.get('__url__', '')}:{sample.get('__key__', '')}"
    for name in MEMBERS:
        if name not in sample:
            why = (
                f"has no member {name!r} (members of a clip lie together, and its key ends at its first dot)"
            )
            raise IntegrityError(where, why, _STEP)
    latent, texts = (
        tensors_in(np.frombuffer(sample[name], np.uint8).copy(), where, _STEP) for name in MEMBERS[1:]
    )
    try:
        record = json.loads(sample["json"])
        row = {**record["clip"], **record["latent"], "made_by": record["made_by"]}
        captions = [
            (item["caption_id"], item["kind"], item["source"])
            for item in record["captions"]
            if item["caption_id"] in texts
        ]
        found = StreamedClip(row, captions, mean_and_logvar(latent), texts, where)
        _check(found)
    except KeyError as error:
        raise IntegrityError(where, f"has no {error}", _STEP) from error
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise IntegrityError(where, f"is no clip ({' '.join(str(error).split())})", _STEP) from error
    return found


def _check(clip: StreamedClip) -> None:
    """
    Raises:
        KeyError, ValueError: a field is missing, or says other than the tensors.
    """
    row, (mean, logvar) = clip.row, clip.latent
    if not isinstance(row["clip_id"], str) or not row["clip_id"]:
        raise ValueError("clip_id is no text")
    if not isinstance(row["made_by"], dict):
        raise ValueError("made_by is no object")
    for name in (*_COUNTS, "shard"):
        if type(row[name]) is not int or row[name] < (name != "shard"):
            raise ValueError(f"{name} is {row[name]!r}")
    told = tuple(row[name] for name in _SHAPE)
    for name, value in (("mean", mean), ("logvar", logvar)):
        if tuple(value.shape) != told:
            raise ValueError(f"{name} is of shape {tuple(value.shape)}, its record of {told}")
        if not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{name} has numbers that are none, or not finite")
    extent = Extent(row["num_frames"], row["height_px"], row["width_px"])
    size = latent_size(extent, (row["factor_t"], row["factor_px"], row["factor_px"]))
    if size != told[1:]:
        sides = f"{extent.num_frames} frames of {extent.width_px} x {extent.height_px} pixels"
        raise ValueError(f"{sides} make latents of {size}, and there are {told[1:]}")
    fps = row["fps"]
    if type(fps) not in (int, float) or not math.isfinite(fps) or fps < 0 or (fps == 0 and told[1] > 1):
        raise ValueError(f"fps is {fps!r}")
    _check_texts(clip)


def _check_texts(clip: StreamedClip) -> None:
    """
    Raises:
        ValueError: no caption has an embedding, or one that cannot be read by a model.
    """
    if not clip.captions:
        raise ValueError("no caption has an embedding")
    width = text_width(clip)
    for name, _, _ in clip.captions:
        value = clip.texts[name]
        if value.ndim != 2 or not len(value) or value.shape[1] != width or not value.is_floating_point():
            raise ValueError(f"the embedding of {name} is {value.dtype} of shape {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"the embedding of {name} is not finite")


def text_width(clip: StreamedClip) -> int:
    """Numbers of a token of its texts."""
    return int(clip.texts[clip.captions[0][0]].shape[-1])
