"""The `coca` backend: short captions by the short fork, dense ones by the dense fork.

It withholds captions of clips that are unlike its training data.

It abstains (`out_of_domain`) by three signs: how surely it chose its words (mean log-probability), how well
they fit the clip in the shared space of the contrastive side, and whether any training clip looks like this
one. Thresholds are measured on held-out clips and stored with the weights.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioner.coca.checkpoint import (
    DEFAULT_WEIGHTS,
    STAGES,
    CaptionerFolder,
    load_stage,
    looks_digest,
    read_folder,
    stage_digest,
)
from captioner.coca.decoding import Decoding, Written, write
from captioner.coca.domain import Domain
from captioner.coca.inputs import clip_input, looked_at, normalised
from captioner.coca.looks import Looks
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import batch
from captioner.gates.answers import fields_text
from captioner.gates.slots import Slots, read
from captioner.options import CaptionerOptions
from captioner.prompts import camera_fields
from captioner.protocol import Caption, ClipFrames, Provenance, Usage, Verdict

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


class CocaCaptioner:
    """The project's own captioner as a backend."""

    name = "coca"
    at_once = 1

    def __init__(self, options: CaptionerOptions) -> None:
        self.options, self.path = options, Path(options.model or DEFAULT_WEIGHTS)
        read_folder(self.path)  # a folder without weights is an error now, not on a far node
        wanted: list[str] = [
            stage
            for stage in ("short", "dense")
            if stage in options.kinds or (stage == "dense" and "structured" in options.kinds)
        ]
        self.digests = {stage: stage_digest(self.path, stage) for stage in wanted}
        sampling = f"{options.temperature:g},{options.top_p:g},{options.max_tokens},{options.seed}"
        stages = ",".join(f"{stage}={digest}" for stage, digest in self.digests.items())
        self.version = f"coca/5:{stages}:{looks_digest(self.path)}:{sampling}:{','.join(options.kinds)}"

    def setup(self) -> None:
        torch.set_num_threads(1)
        self.folder = read_folder(self.path)
        self.models = {stage: load_stage(self.folder, stage) for stage in self.digests}
        self.looks = Looks.load(self.path)
        self.domains = {
            stage: Domain.from_record(self.folder.stages[stage].get("domain")) for stage in self.digests
        }

    def decoding(self, attempt: int) -> Decoding:
        """Greedy at first unless told otherwise; a retry samples."""
        hot = self.options.temperature or (0.7 if attempt else 0.0)
        seed, most = self.options.seed + 7919 * attempt, self.options.max_tokens
        if hot == 0:
            return Decoding(max_tokens=most, seed=seed)
        return Decoding(
            method="nucleus", top_p=self.options.top_p, temperature=hot, max_tokens=most, seed=seed
        )

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        inputs = [clip_input(clip.frames, self.folder.config) for clip in clips]
        found: list[list[Caption]] = [[] for _ in clips]
        decoding = self.decoding(attempt)
        reasons = [self.looks.reasons(frames) if self.looks else [] for frames in inputs]
        said: dict[str, tuple[list[Heard], float]] = {}
        for stage, model in self.models.items():
            begin = time.monotonic()
            heard = listen_all(model, self.folder, inputs, decoding)
            said[stage] = heard, (time.monotonic() - begin) / max(1, len(clips))
            for index, item in enumerate(heard):  # what is strange to one fork is not believed of the other
                reasons[index] += self.domains[stage].reasons(item.written.mean_logprob, item.alignment)
        for stage, (heard, seconds) in said.items():
            for index, (clip, item) in enumerate(zip(clips, heard, strict=True)):
                found[index] += self._captions(stage, clip, item, decoding, seconds, reasons[index])
        return found

    def _captions(
        self,
        stage: str,
        clip: ClipFrames,
        heard: Heard,
        decoding: Decoding,
        seconds: float,
        reasons: list[str],
    ) -> list[Caption]:
        picked = looked_at(len(clip.frames), self.folder.config)
        common: dict[str, Any] = {
            "source": self.name,
            "finish_reason": "stop" if heard.written.is_finished else "length",
            "scores": {
                "mean_logprob": round(heard.written.mean_logprob, 4),
                "alignment": round(heard.alignment, 4),
            },
            "verdict": Verdict(status="out_of_domain", reasons=tuple(reasons)) if reasons else Verdict(),
            "provenance": Provenance(
                backend=self.name,
                model=f"{self.path.name}/{stage}",
                weights=self.digests[stage],
                sampling=asdict(decoding),
                seed=decoding.seed,
                frame_indices=tuple(picked),
                frame_times_s=tuple(clip.times_s[index] for index in picked),
            ),
        }
        fields = fields_of(read(heard.text), clip)
        usage = Usage(output_tokens=len(heard.written.ids) + 1, seconds=seconds)
        texts = (
            {"short": heard.text}
            if stage == "short"
            else {"dense": heard.text, "structured": fields_text(fields)}
        )
        wanted = [kind for kind in texts if kind in self.options.kinds]
        return [
            Caption(
                kind=kind,
                text=texts[kind],
                fields=fields if kind != "short" else {},
                usage=usage if index == 0 else Usage(),
                **common,
            )
            for index, kind in enumerate(wanted)
        ]


def fields_of(slots: Slots, clip: ClipFrames) -> dict[str, Any]:
    """Structured fields of what a dense caption asserts; the camera as measured, where that is sure."""
    subjects = [" ".join(filter(None, (thing.size, thing.color, thing.shape))) for thing in slots.things]
    actions = [
        f"{thing.color} {thing.shape} {'moves ' + thing.direction if thing.direction else 'stays still'}"
        for thing in slots.things
        if thing.motion
    ]
    camera = (
        {"tag": "", "confidence": None, "source": "model"}
        if clip.is_image
        else camera_fields(clip.facts, slots.camera)
    )
    return {
        "subjects": subjects,
        "actions": actions,
        "setting": slots.background,
        "camera": camera,
        "shot_type": "",
        "lighting": "",
        "style": "computer animation",
    }


__all__ = ["STAGES", "CocaCaptioner", "Heard", "fields_of", "listen", "listen_all"]
