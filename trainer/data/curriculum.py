"""What a run reads when: stages in a row, as one stream of steps addressed by one integer.

A stage may show clips in shorter windows, leave some frame rates out, and set the share of images among the
tokens. Image sizes and lengths are never made alike: a stage is a choice of what to read, not a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifests.errors import UsageError
from trainer.config import FitConfig, StageConfig
from trainer.data.packs import PackSettings, check_frames, pack_settings
from trainer.data.plan_stream import Deal, PlanStream
from trainer.data.samples import Sample, SampleTable, Size

EPOCHS_OF_A_STAGE = 1_000_000


@dataclass(frozen=True)
class Stage:
    """One stage, ready to plan: its first step, and the number of samples it leaves out."""

    first: int
    table: SampleTable
    settings: PackSettings
    left_out: int


def stage_table(
    table: SampleTable,
    stage: StageConfig,
    patch: Size,
    factor_t: int,
    is_covering: bool = True,
    number: int = 1,
) -> SampleTable:
    """The samples of a stage, with their weights and the most latents of each to show at once.

    Args:
        number: of the stage, for errors.

    Raises:
        UsageError: it leaves none.
    """
    rates = np.zeros(len(table)) if table.fps is None else table.fps
    is_image = table.latent_t == 1
    keep = is_image | ((rates >= stage.min_fps) & (rates <= (stage.max_fps or np.inf)))
    if stage.image_share == 0:
        keep &= ~is_image
    if stage.image_share == 1:
        keep &= is_image
    if stage.image_share in (0, 1) and not (is_image == bool(stage.image_share)).any():
        raise UsageError(
            f"--image-share {stage.image_share:g}",
            f"asks for {'images' if stage.image_share else 'videos'}, and the data has none",
            "Leave it out.",
        )
    if not keep.any():
        raise UsageError(
            f"stage {number}",
            f"leaves none of {len(table)} samples",
            "Widen its rates, or its share of images.",
        )
    kept, is_image, rates = table.where(keep), is_image[keep], rates[keep]
    if stage.max_s:
        limit = 1 + np.floor(stage.max_s * rates / factor_t).astype(np.int64)
        kept = replace(kept, limit_t=np.maximum(limit, 1))
    if stage.image_share is not None and 0 < stage.image_share < 1:
        kept = replace(kept, weight=_shared(kept, is_image, stage.image_share, patch, is_covering))
    return kept


def _shared(
    table: SampleTable, is_image: np.ndarray, share: float, patch: Size, is_covering: bool
) -> np.ndarray:
    """Weights with which images make up `share` of the tokens; videos keep theirs."""
    weight = np.ones(len(table)) if table.weight is None else table.weight
    latents = (
        table.latent_t if table.limit_t is None or is_covering else np.minimum(table.latent_t, table.limit_t)
    )
    tokens = -(-latents // patch[0]) * table.per_frame(patch) * weight
    images, videos = float(tokens[is_image].sum()), float(tokens[~is_image].sum())
    if not images or not videos:
        raise UsageError(
            f"--image-share {share:g}", "needs both images and videos in the data", "Leave it out."
        )
    return np.where(is_image, weight * share / (1 - share) * videos / images, weight)


def stages_of(table: SampleTable, config: FitConfig, factor_t: int) -> list[Stage]:
    """The stages of a run; one without an end comes last.

    Raises:
        UsageError: a stage before the last has no number of steps, or one leaves no sample.
    """
    wanted = list(config.stages) or [StageConfig(image_share=config.image_share)]
    found, first = [], 0
    for index, stage in enumerate(wanted):
        if stage.steps < 1 and index + 1 < len(wanted):
            raise UsageError(
                f"stage {index + 1}", "has no number of steps", "Only the last may go on to the end."
            )
        is_covering = config.long_clips == "cover"
        own = stage_table(table, stage, config.model.patch, factor_t, is_covering, index + 1)
        settings = replace(pack_settings(config), max_tokens=stage.max_tokens)
        found.append(Stage(first, own, settings, len(table) - len(own)))
        first += stage.steps
    return found


class Curriculum:
    """The steps of all stages in a row.

    The epochs of stage n are counted from n millions, so no two stages draw the same noise.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        self._streams = [
            PlanStream(stage.table, stage.settings, number * EPOCHS_OF_A_STAGE)
            for number, stage in enumerate(stages)
        ]

    def check(self, begin: int, end: int) -> None:
        """
        Args:
            begin, end: the steps that will be read.

        Raises:
            UsageError: a stage among them has a limit that one frame of a sample exceeds.
        """
        ends = [*(stage.first for stage in self.stages[1:]), end]
        for number, (stage, last) in enumerate(zip(self.stages, ends, strict=True), 1):
            if max(begin, stage.first) < min(end, last):
                check_frames(stage.table, stage.settings, number)

    def _number(self, step: int) -> int:
        return max(index for index, stage in enumerate(self.stages) if stage.first <= step)

    def at(self, step: int, deal: Deal = list) -> tuple[int, list[list[Sample]]]:
        """(epoch, packs) of a global step, counted from 0; `deal` as of `PlanStream.at`."""
        number = self._number(step)
        return self._streams[number].at(step - self.stages[number].first, deal)

    def mark(self, step: int) -> list[int]:
        """Where the epoch of a step began: number of the stage, the epoch, its first step within the stage.

        For a checkpoint.
        """
        number = self._number(step)
        return [number, *self._streams[number].mark(step - self.stages[number].first)]

    def next_epoch_at(self, step: int, mark: Sequence[int]) -> list[int]:
        """The mark of a run whose data has changed: the epoch after that of `mark` begins at a step."""
        number = self._number(step)
        epoch = mark[1] + 1 if mark[0] == number else number * EPOCHS_OF_A_STAGE
        return [number, epoch, step - self.stages[number].first]

    def seek(self, number: int, epoch: int, first_step: int) -> None:
        """Take up a mark, so that a resumed run plans only the epoch it is in."""
        self._streams[number].seek(epoch, first_step)

    def steps_from(self, step: int, deal: Deal = list) -> Iterator[tuple[int, int, list[list[Sample]]]]:
        """(step, epoch, packs) without end, from `step` on."""
        while True:
            epoch, packs = self.at(step, deal)
            yield step, epoch, packs
            step += 1
