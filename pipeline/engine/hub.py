"""Where the actors of a run say what they do, for its driver to collect.

A process of its own, which every stage waits for before it sets up: so this module imports little.
"""

from __future__ import annotations

import time
from typing import Any

import ray

from manifests.errors import RushesError

MAX_SETUPS = 3
"""Deaths of one actor while it sets up, after which the run ends."""


def event_row(event: str, stage: str, text: str, shard: int | None = None, **value: Any) -> dict:
    """A row of a run's log."""
    return {"event": event, "stage": stage, "shard": shard, "text": text, "time_s": time.time(), **value}


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class EventHub:
    """Where stage actors drop events, on the driver's node, for it to collect. Losing it loses no data."""

    def __init__(self) -> None:
        self._events: list[dict] = []
        self._setups: dict[str, int] = {}
        self._refusal: RushesError | None = None

    def begin_setup(self, stage: str, actor: str) -> int:
        """How many times the process of this actor died while it set up."""
        self._setups[actor] = self._setups.get(actor, 0) + 1
        if deaths := self._setups[actor] - 1:
            text = f"its process died while it set up, {deaths} of {MAX_SETUPS} times"
            self.put(event_row("died", stage, text))
        return deaths

    def end_setup(self, actor: str) -> None:
        self._setups.pop(actor, None)  # a hub that was started again has forgotten it

    def refuse(self, why: RushesError) -> None:
        """A stage cannot be set up, and why."""
        self._refusal = why

    def refusal(self) -> RushesError | None:
        return self._refusal

    def put(self, event: dict) -> None:
        self._events.append(event)

    def drain(self) -> list[dict]:
        events, self._events = self._events, []
        return events
