"""Whether a clip is like those a captioner was trained on, by the captioner's own signs; measured once on held-out clips, stored with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

LOW_SHARE = 0.01
"""Share of held-out clips that a single threshold may send away."""
AXES = 32


@dataclass(frozen=True)
class Domain:
    """Thresholds of three signs. Without them (a captioner that was never measured) nothing is sent away.

    Attributes:
        min_logprob: least mean log-probability of a caption's tokens.
        min_alignment: least cosine of clip and caption.
        max_distance: greatest distance of a clip's embedding from the training clips', in deviations along their principal axes and the rest beside them
            (Mahalanobis distance with a shared deviation for the axes that are left, as in Lee et al. 2018, arXiv:1807.03888).
    """

    min_logprob: float = -1e9
    min_alignment: float = -1e9
    max_distance: float = 1e9
    mean: tuple[float, ...] = ()
    axes: tuple[tuple[float, ...], ...] = ()
    deviations: tuple[float, ...] = ()
    rest: float = 1.0

    @staticmethod
    def measure(logprobs: Sequence[float], alignments: Sequence[float], embeddings: np.ndarray, margin: float = 1.15) -> Domain:
        """From held-out clips. embeddings: [N, E]; half of them make the axes, the other half the threshold."""
        fitted, checked = embeddings[::2].astype(np.float64), embeddings[1::2].astype(np.float64)
        mean = fitted.mean(0)
        _, scale, axes = np.linalg.svd(fitted - mean, full_matrices=False)
        deviations = scale / np.sqrt(max(1, len(fitted) - 1))
        count = min(AXES, len(deviations) - 1)
        rest = float(max(np.sqrt((deviations[count:] ** 2).mean()), 1e-4))
        draft = Domain(
            mean=tuple(np.round(mean, 5).tolist()), axes=tuple(tuple(row) for row in np.round(axes[:count], 4).tolist()),
            deviations=tuple(np.round(np.maximum(deviations[:count], rest), 5).tolist()), rest=round(rest, 6),
        )  # fmt: skip
        far = float(np.quantile([draft.distance(row) for row in checked], 1 - LOW_SHARE))
        return replace(
            draft, min_logprob=round(float(np.quantile(logprobs, LOW_SHARE)), 4), min_alignment=round(float(np.quantile(alignments, LOW_SHARE)), 4),
            max_distance=round(far * margin, 4),
        )  # fmt: skip

    @staticmethod
    def from_record(record: dict[str, Any] | None) -> Domain:
        if not record:
            return Domain()
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        values["axes"] = tuple(tuple(row) for row in values["axes"])
        return Domain(**values)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    def distance(self, embedding: np.ndarray) -> float:
        """Root mean square of the deviations of one embedding [E]."""
        if not self.mean:
            return 0.0
        away = np.asarray(embedding, np.float64) - np.array(self.mean)
        axes = np.array(self.axes)
        along = axes @ away
        beside = away - along @ axes
        total = ((along / np.array(self.deviations)) ** 2).sum() + (beside**2).sum() / self.rest**2
        return float(np.sqrt(total / len(away)))

    def reasons(self, logprob: float, alignment: float, embedding: np.ndarray) -> list[str]:
        """Why a caption should not be believed; empty if it may be."""
        found = []
        if logprob < self.min_logprob:
            found.append(f"logprob:{logprob:.3f}<{self.min_logprob:.3f}")
        if alignment < self.min_alignment:
            found.append(f"alignment:{alignment:.3f}<{self.min_alignment:.3f}")
        if (distance := self.distance(embedding)) > self.max_distance:
            found.append(f"distance:{distance:.2f}>{self.max_distance:.2f}")
        return found
