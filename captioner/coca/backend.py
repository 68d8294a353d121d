"""The `coca` backend: short captions by the short fork, dense ones by the dense fork.

It withholds captions of clips that are unlike its training data.

It abstains (`out_of_domain`) by three signs: how surely it chose its words (mean log-probability), how well
they fit the clip in the shared space of the contrastive side, and whether any training clip looks like this
one. Thresholds are measured on held-out clips and stored with the weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from captioner.coca.folder import captioner_folder, looks_digest, read_folder, stage_digest
from captioner.coca.inputs import clip_input, looked_at
from captioner.gates.answers import fields_text
from captioner.gates.slots import Slots, read
from captioner.options import CaptionerOptions
from captioner.prompts import camera_fields
from captioner.protocol import Caption, ClipFrames, Provenance, Usage, Verdict

if TYPE_CHECKING:
    from captioner.coca.decoding import Decoding
    from captioner.coca.listening import Heard


class CocaCaptioner:
    """The project's own captioner as a backend."""

    name = "coca"
    at_once = 1

    def __init__(self, options: CaptionerOptions) -> None:
        self.options, self.path = options, captioner_folder(options.model)
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
        import torch

        from captioner.coca.abstaining.domain import Domain
        from captioner.coca.abstaining.looks import Looks
        from captioner.coca.checkpoint import load_stage

        torch.set_num_threads(1)
        self.folder = read_folder(self.path)
        self.models = {stage: load_stage(self.folder, stage) for stage in self.digests}
        self.looks = Looks.load(self.path)
        self.domains = {
            stage: Domain.from_record(self.folder.stages[stage].get("domain")) for stage in self.digests
        }

    def decoding(self, attempt: int) -> Decoding:
        """Greedy at first unless told otherwise; a retry samples."""
        from captioner.coca.decoding import Decoding

        hot = self.options.temperature or (0.7 if attempt else 0.0)
        seed, most = self.options.seed + 7919 * attempt, self.options.max_tokens
        if hot == 0:
            return Decoding(max_tokens=most, seed=seed)
        return Decoding(
            method="nucleus", top_p=self.options.top_p, temperature=hot, max_tokens=most, seed=seed
        )

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        from captioner.coca.listening import listen_all

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
