"""Whether to believe a captioner, by its confidence and by how well words fit the clip.

The thresholds are measured on held-out clips and stored with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LOW_SHARE = 0.005
"""Share of held-out clips that a single threshold may send away."""


@dataclass(frozen=True)
class Domain:
    """Thresholds of two signs. Without them (a captioner that was never measured) nothing is sent away.

    Attributes:
        min_logprob: least mean log-probability of a caption's tokens.
        min_alignment: least cosine of clip and caption.
    """

    min_logprob: float = -1e9
    min_alignment: float = -1e9

    @staticmethod
    def measure(logprobs: Sequence[float], alignments: Sequence[float]) -> Domain:
        """From held-out clips."""
        return Domain(
            round(float(np.quantile(logprobs, LOW_SHARE)), 4),
            round(float(np.quantile(alignments, LOW_SHARE)), 4),
        )

    @staticmethod
    def from_record(record: dict[str, Any] | None) -> Domain:
        return Domain(**record) if record else Domain()

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    def reasons(self, logprob: float, alignment: float) -> list[str]:
        """Why a caption should not be believed; empty if it may be."""
        found = []
        if logprob < self.min_logprob:
            found.append(f"logprob:{logprob:.3f}<{self.min_logprob:.3f}")
        if alignment < self.min_alignment:
            found.append(f"alignment:{alignment:.3f}<{self.min_alignment:.3f}")
        return found
