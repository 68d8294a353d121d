"""Summary of captioning: verdicts, reasons, tokens, seconds, cost, and captions that recur.

One caption on many unrelated clips is the sign of a captioner that does not look.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from captioner.gates.gates import duplicates
from manifests.cli import say
from manifests.layout import Column, Dataset
from manifests.tables import scans
from manifests.writing import events

_FIELDS = [
    *("clip_id", "kind", "source", "text", "status", "reasons"),
    *("prompt_tokens", "output_tokens", "num_requests"),
]


def caption_summary(dataset: Dataset, column: Column, run_id: str) -> dict[str, Any]:
    """Counts over a caption column and cost of this run; captions that footage came with are not counted."""
    rows = [
        row
        for row in scans.table(dataset, "captions", column, _FIELDS).to_pylist()
        if row["source"] not in {"ground_truth", "alt"}
    ]
    status = Counter(row["status"] for row in rows if row["kind"] != "window")
    reasons = Counter(reason.split(":")[0] for row in rows for reason in row["reasons"])
    committed = [
        event
        for event in events.read_events(dataset, run_id)
        if event["stage"] == "caption" and event["event"] == "committed"
    ]
    seconds = sum(event["value"].get("seconds", 0.0) for event in committed)
    tokens = {
        name: sum(row[name] for row in rows) for name in ("prompt_tokens", "output_tokens", "num_requests")
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
        "duplicates": duplicates(rows)[:10],
    }


def print_caption_summary(summary: dict[str, Any]) -> None:
    """One line, and the alarms."""
    cost = f", {summary['seconds_per_accepted']} s each" if summary["seconds_per_accepted"] else ""
    cost += f", {summary['output_tokens_per_accepted']} tokens each" if summary["output_tokens"] else ""
    say(
        f"captions: {summary['accepted']} accepted{cost}; {summary['rejected']} rejected, "
        f"{summary['out_of_domain']} withheld as out of domain"
    )
    for item in summary["duplicates"]:
        say(
            f"warning: one caption of {item['source']} stands on {item['num_clips']} clips of "
            f"{item['num_sources']} sources: {item['text'][:120]!r}"
        )
