"""What forks of the captioner say of clips, in batches of one shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from captioner.coca.decoding import Decoding, Written, write
from captioner.coca.folder import CaptionerFolder
from captioner.coca.inputs import normalised
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import batch

_BATCH = 16


@dataclass(frozen=True)
class Heard:
    """What one fork says of one clip."""

    text: str
    written: Written
    alignment: float
    embedding: np.ndarray


def listen(model: VideoCoCa, folder: CaptionerFolder, clips: np.ndarray, decoding: Decoding) -> list[Heard]:
    """Caption clips [B, T, h, w, 3] uint8 of one shape."""
    pixels = normalised(clips)
    written = write(model, pixels, folder.tokenizer.start, folder.tokenizer.end, decoding)
    texts = [folder.tokenizer.decode(item.ids) for item in written]
    with torch.no_grad():
        embedding, _ = model.encode_clip(pixels)
        text_embedding, _ = model._encode_text(batch(folder.tokenizer, texts, folder.config.context_length))
    scores = (embedding * text_embedding).sum(-1)
    rows = zip(texts, written, scores.tolist(), embedding.numpy(), strict=True)
    return [Heard(text, item, score, vector) for text, item, score, vector in rows]


def listen_all(
    model: VideoCoCa, folder: CaptionerFolder, inputs: Sequence[np.ndarray], decoding: Decoding
) -> list[Heard]:
    """The same for inputs [T, h, w, 3] of mixed shapes, those of one shape together."""
    groups = defaultdict(list)
    for index, item in enumerate(inputs):
        groups[item.shape].append(index)
    found: dict[int, Heard] = {}
    for members in groups.values():
        for begin in range(0, len(members), _BATCH):
            part = members[begin : begin + _BATCH]
            found |= dict(
                zip(
                    part,
                    listen(model, folder, np.stack([inputs[index] for index in part]), decoding),
                    strict=True,
                )
            )
    return [found[index] for index in range(len(inputs))]
