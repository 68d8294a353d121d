"""Summary of captioning: verdicts, reasons, tokens, seconds, cost, and captions that recur.

One caption on many unrelated clips is the sign of a captioner that does not look.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captioner.gates.gates import DUPLICATE_CLIPS, duplicates
from manifests.cli import say
from manifests.layout import Column, Dataset
from manifests.runs import events
from manifests.tables import scans

_FIELDS = [
    *("clip_id", "kind", "source", "text", "status", "reasons"),
    *("prompt_tokens", "output_tokens", "num_requests"),
]


def caption_summary(dataset: Dataset, column: Column, run_id: str) -> dict[str, Any]:
    """Counts over a caption column and cost of this run; captions that footage came with are not counted."""
    given = pa.array(["ground_truth", "alt"])
    rows = scans.table(dataset, "captions", column, _FIELDS)
    rows = rows.filter(pc.invert(pc.is_in(rows["source"], given)))
    whole = rows.filter(pc.not_equal(rows["kind"], "window"))
    status = _counts(whole["status"])
    reasons = Counter[str]()
    for reason, count in _counts(pc.list_flatten(rows["reasons"])).items():
        reasons[reason.split(":")[0]] += count
    committed = [
        event
        for event in events.read_events(dataset, run_id)
        if event["stage"] == "caption" and event["event"] == "committed"
    ]
    seconds = sum(event["value"].get("seconds", 0.0) for event in committed)
    tokens = {
        name: pc.sum(rows[name]).as_py() or 0 for name in ("prompt_tokens", "output_tokens", "num_requests")
    }
    accepted = status["accepted"]
    return {
        "column": str(column),
        "accepted": accepted,
        "rejected": status["rejected"],
        "out_of_domain": status["out_of_domain"],
        "reasons": dict(reasons.most_common()),
        **tokens,
        "seconds": round(seconds, 3),
        "seconds_per_accepted": round(seconds / accepted, 4) if accepted else None,
        "output_tokens_per_accepted": round(tokens["output_tokens"] / accepted, 2) if accepted else None,
        "duplicates": duplicates(_said_often(rows))[:10],
    }


def _counts(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()})


def _said_often(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows whose text is said so often that it may be said too often; of the others there are many."""
    counted = rows.group_by(["source", "text"]).aggregate([("clip_id", "count")])
    often = counted.filter(pc.greater(counted["clip_id_count"], DUPLICATE_CLIPS)).select(["source", "text"])
    if not often.num_rows:
        return []
    plain = rows.select(["clip_id", "kind", "source", "text"])
    found: list[dict[str, Any]] = plain.join(often, ["source", "text"], join_type="inner").to_pylist()
    return found


def print_caption_summary(summary: dict[str, Any]) -> None:
    """One line, and the alarms."""
    cost = f", {summary['seconds_per_accepted']} s each" if summary["seconds_per_accepted"] else ""
    cost += (
        f", {summary['output_tokens_per_accepted']} tokens each"
        if summary["output_tokens_per_accepted"]
        else ""
    )
    say(
        f"captions: {summary['accepted']} accepted{cost}; {summary['rejected']} rejected, "
        f"{summary['out_of_domain']} withheld as out of domain"
    )
    for item in summary["duplicates"]:
        say(
            f"warning: one caption of {item['source']} stands on {item['num_clips']} clips of "
            f"{item['num_sources']} sources: {item['text'][:120]!r}"
        )
