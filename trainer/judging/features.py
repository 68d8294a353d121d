"""Each feature of the sampler on renders of the film world, and what it kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainer.judging.cases import Case, cases
from trainer.judging.measures import drift, joint_ratio, kept_error, likeness, seam_ratio
from trainer.sampling import features
from trainer.sampling.draft import Sampling
from trainer.sampling.features import Clip, Scene
from trainer.sampling.job.making import Maker, Words
from trainer.sampling.trained import TrainedModel
from trainer.sampling.windows import Windows
from vae.protocol import VAE

CLIPS = 4
STRENGTHS = (0.0, 0.3, 0.6, 0.9)
MINUTE_S = 60.0


class FeatureJudge:
    """Runs features of a model and measures them.

    Args:
        scale: of the picture sizes.
        seed: of the questions and of the noise.
    """

    def __init__(
        self, model: TrainedModel, vae: VAE, how: Sampling, scale: float, clips: int = CLIPS, seed: int = 0
    ) -> None:
        self.model, self.vae, self.how, self.factor_t = model, vae, how, model.factors[0]
        self.seed = seed
        asked = cases(20 * clips, scale, stills=0.0, seed=seed)
        films = [case for case in asked if case.canvas.num_frames >= 18]
        self.cases = films[:clips]
        self.clips = [Clip(case.render(), case.canvas.fps) for case in self.cases]

    def all(self, minute_s: float = MINUTE_S) -> dict[str, dict[str, float]]:
        """Every feature's measures, each the worst over the clips where it says so."""
        found = {
            "image to video": self._joined(self._from_image, 0, at=1),
            "last image": self._ends({-1}),
            "first and last image": self._ends({0, -1}),
            "extend after": self._joined(self._after, 0),
            "extend before": self._joined(self._before, 12, at=12),
            "connect": self._joined(self._connect, 0, gap=12),
            "connect over windows": self._connected_long(),
            "loop": {"seam": max(seam_ratio(self._loop(case)) for case in self.cases)},
            "blend": self._blend(),
            "edit": self._edit(),
        }
        if minute_s:
            found["a minute"] = self._minute(minute_s)
        return found

    def _make(self, scene: Scene, case: Case, clips: Sequence[Clip] = ()) -> Tensor:
        """The frames of a scene with a case's prompt."""
        maker = Maker(self.model, self.vae, scene, clips, how=self.how, windows=Windows())
        [frames] = maker.samples([Words(prompts=(case.prompt,), seed=self.seed)])
        return torch.from_numpy(np.stack(list(frames)))

    def _joined(
        self, make: Callable[[Case, Clip], Tensor], start: int, at: int = 0, gap: int = 0
    ) -> dict[str, float]:
        """What was kept, and the joints: at frame `at`, or where the given frames end, and after a gap."""
        errors, ratios = [], []
        for case, clip in zip(self.cases, self.clips, strict=True):
            frames = make(case, clip)
            given = clip.frames[:1] if make == self._from_image else clip.frames
            errors.append(kept_error(frames, given, start))
            joint = at or len(given)
            ratios += [joint_ratio(frames, place) for place in ((joint, joint + gap) if gap else (joint,))]
        return {
            "kept_error": max(errors),
            "joint_ratio": sum(ratios) / len(ratios),
            "joint_worst": max(ratios),
        }

    def _from_image(self, case: Case, clip: Clip) -> Tensor:
        return self._make(features.from_images(clip.canvas(), {0: clip.frames[0]}), case)

    def _ends(self, given: set[int]) -> dict[str, float]:
        """Pictures at the ends of a video, and the joints between them and what is made beside them."""
        ratios = []
        for case, clip in zip(self.cases, self.clips, strict=True):
            pictures = {place % len(clip): clip.frames[place] for place in given}
            frames = self._make(features.from_images(clip.canvas(), pictures), case)
            ratios += [joint_ratio(frames, place or 1) for place in pictures]
        return {"joint_ratio": sum(ratios) / len(ratios), "joint_worst": max(ratios)}

    def _connected_long(self) -> dict[str, float]:
        """A gap that takes several windows: both joints, and the worst place inside."""
        case, clip, gap = self.cases[0], self.clips[0], Windows().length * self.factor_t
        frames = self._make(features.connect(clip, clip, gap, self.factor_t), case)
        joints = [joint_ratio(frames, place) for place in (len(clip), len(clip) + gap)]
        inside = [joint_ratio(frames, place) for place in range(len(clip) + 1, len(clip) + gap)]
        return {"joint_worst": max(joints), "inside_worst": max(inside)}

    def _after(self, case: Case, clip: Clip) -> Tensor:
        return self._make(features.extend_after(clip, 12, self.factor_t), case)

    def _before(self, case: Case, clip: Clip) -> Tensor:
        return self._make(features.extend_before(clip, 12, self.factor_t), case)

    def _connect(self, case: Case, clip: Clip) -> Tensor:
        return self._make(features.connect(clip, clip, 12, self.factor_t), case)

    def _loop(self, case: Case) -> Tensor:
        frames = max(self.factor_t, case.canvas.num_frames // self.factor_t * self.factor_t)
        canvas = replace(case.canvas, num_frames=frames)
        return self._make(features.loop(canvas, self.factor_t), case)

    def _blend(self) -> dict[str, float]:
        case, clip = self.cases[0], self.clips[0]
        other = Clip(clip.frames.flip(2), clip.fps)
        count = len(clip)
        frames = self._make(features.blend(clip, other, count, self.factor_t), case, (clip, other))
        return {
            "kept_error": max(
                kept_error(frames, clip.frames[:1]), kept_error(frames, other.frames[-1:], count - 1)
            ),
            "joint_worst": max(joint_ratio(frames, at) for at in range(1, count)),
        }

    def _edit(self) -> dict[str, float]:
        case, clip = self.cases[0], self.clips[0]
        return {
            f"likeness at {strength:g}": likeness(
                self._make(features.edit(clip, strength), case), clip.frames
            )
            for strength in STRENGTHS
        }

    def _minute(self, seconds: float) -> dict[str, float]:
        case = self.cases[0]
        canvas = self.clips[0].canvas(features.frames_in(seconds, case.canvas.fps))
        frames = self._make(features.from_text(canvas), case)
        return drift(frames, canvas.fps) | {"seconds": len(frames) / canvas.fps}
