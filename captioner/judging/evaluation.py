"""One evaluation: the captioner, each stage of ours, and the weightless baseline on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from captioner.coca.backend import CocaCaptioner
from captioner.gates.slots import ATTRIBUTES
from captioner.judging.counterfactuals import counterfactuals
from captioner.judging.film_truth import TestClip, evaluate, held_out
from captioner.options import CaptionerOptions
from captioner.protocol import Caption, Captioner, ClipFrames
from captioner.registry import make_captioner
from captioner.windows import Windowed
from world import captions as words
from world.counterfactuals import KINDS

WORST = 10


class StageCaptioner(CocaCaptioner):
    """One stage of our captioner alone, its text taken as a dense caption, for judging the base."""

    def __init__(self, options: CaptionerOptions, stage: str) -> None:
        super().__init__(replace(options, kinds=()))
        from captioner.coca.folder import stage_digest

        self.digests = {stage: stage_digest(self.path, stage)}

    def _captions(
        self, stage: str, clip: ClipFrames, heard: Any, decoding: Any, seconds: float, reasons: list[str]
    ) -> list[Caption]:
        return [Caption(kind="dense", text=heard.text, source=self.name)]


def run_evaluation(
    options: CaptionerOptions, count: int, seed: int, prepare: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], list[tuple[Sequence[np.ndarray], str]]]:
    """The whole report, and the worst clips as rows of a contact sheet."""
    clips = held_out(count, seed)
    reports = []
    if options.captioner == "coca":
        base = Windowed(StageCaptioner(options, "base"), options.window_s)
        base.setup()
        prepare()
        reports.append(evaluate(base, clips, "dense", "coca base"))
    main = make_captioner(replace(options, kinds=("short", "dense")))
    main.setup()
    prepare()
    for kind in ("short", "dense"):
        reports.append(evaluate(main, clips, kind, f"{options.captioner} {kind}"))
    dense = reports[-1]
    if options.captioner != "measured":
        reports.append(evaluate(make_captioner("measured"), clips, "dense", "measured"))
    changed = (
        [counterfactuals(_dense_only(options, prepare), clips, kind).to_json() for kind in KINDS]
        if options.captioner != "measured"
        else []
    )
    result = {
        "num_clips": len(clips),
        "seed": seed,
        "version": main.version,
        "reports": [report.to_json() for report in reports],
        "counterfactuals": changed,
    }
    return result, [_row(clips[index], text, wrong) for index, text, wrong in dense.wrong[:WORST]]


def _dense_only(options: CaptionerOptions, prepare: Callable[[], None]) -> Captioner:
    captioner = make_captioner(replace(options, kinds=("dense",)))
    captioner.setup()
    prepare()
    return captioner


def _row(test: TestClip, text: str, wrong: set[str]) -> tuple[Sequence[np.ndarray], str]:
    faults = ", ".join(name for name in ATTRIBUTES if name in wrong)
    return (
        test.clip.frames,
        f"said: {text}\ntrue: {' / '.join(words.dense(shot) for shot in test.shots)}\nat fault: "
        f"{faults or 'nothing'}",
    )
