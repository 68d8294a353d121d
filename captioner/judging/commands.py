"""Verbs that measure and compare captions: `eval-captioner`, `compare-captions`, `judge-captions`."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from captioner.options import CaptionerOptions
from manifests import cli
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, SEED, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.store import storage
from manifests.store.shards import read_member
from manifests.tables import scans
from manifests.views import View


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a captioner on held-out films by attribute, beside chance and the `measured` baseline.

    Example: rushes eval-captioner --clips 500
    """

    ranges: ClassVar[Ranges] = {"clips": COUNT, "seed": SEED, "threads": WORKERS}

    with_: Annotated[CaptionerOptions, tyro.conf.arg(name="with")] = field(
        default_factory=lambda: CaptionerOptions(captioner="coca")
    )
    clips: int = 500
    """Held-out clips."""
    seed: int = 0
    """Which ones."""
    out: Path | None = None
    """Folder for report.json and the contact sheet of the worst clips (worst.png)."""
    overwrite: bool = False
    """Replace files that exist there."""
    record: bool = False
    """Write the scores into the config.json of the captioner's own weights."""
    json: bool = False
    """Print JSON."""
    threads: int = 2
    """CPU threads."""

    def run(self) -> int:
        import torch

        from captioner.coca.folder import captioner_folder
        from captioner.judging.evaluation import run_evaluation
        from captioner.judging.sheet import contact_sheet

        report, worst_clips = (self.out / name if self.out else None for name in ("report.json", "worst.png"))
        cli.check_new(report, worst_clips, is_overwriting=self.overwrite)
        if self.record and self.with_.captioner != "coca":
            raise UsageError(
                "--record", f"is of weights, which {self.with_.captioner} has none of", "Leave it out."
            )
        result, worst = run_evaluation(
            self.with_, self.clips, self.seed, lambda: torch.set_num_threads(self.threads)
        )
        if self.json:
            cli.print_json(result)
        else:
            print_report(result)
        if self.record:
            record_scores(captioner_folder(self.with_.model), result)
        if failed := max(one["num_failed"] for one in (*result["reports"], *result["counterfactuals"])):
            cli.say(
                f"up to {failed} of {result['num_clips']} clips got no answer: an empty caption in reports, "
                "left out of counterfactual clips"
            )
        if report and worst_clips:
            storage.write_local(report, (json.dumps(result, indent=2) + "\n").encode())
            contact_sheet(worst, worst_clips)
            cli.say(f"report: {report}, worst clips: {worst_clips}")
        return cli.FAILED_ITEMS if failed else cli.DONE


def record_scores(path: Path, result: dict[str, Any]) -> None:
    """Keep an evaluation's means and recalls beside the weights it was of."""
    from captioner.coca.folder import update_record

    for report in result["reports"]:
        name, _, stage = report["captioner"].partition(" ")
        if name == "coca":
            recalls = {key: row["recall"] for key, row in report["attributes"].items()}
            means = {key: report[key] for key in ("mean_recall", "mean_precision", "main_subject")}
            update_record(path, stage, {"scores": {"clips": result["num_clips"], **means, "recall": recalls}})


def print_report(result: dict[str, Any]) -> None:
    reports = result["reports"]
    header = ["attribute", "facts", "chance"] + [
        f"{item['captioner']} {name}" for item in reports for name in ("recall", "precision", "said")
    ]
    rows = []
    for name in reports[0]["attributes"]:
        cells = [item["attributes"][name] for item in reports]
        rows.append(
            [
                name,
                cells[0]["facts"],
                cells[0]["chance"],
                *(cell[key] for cell in cells for key in ("recall", "precision", "assertion_rate")),
            ]
        )
    rows.append(
        [
            "mean",
            "",
            "",
            *(value for item in reports for value in (item["mean_recall"], item["mean_precision"], "")),
        ]
    )
    cli.print_table(f"{result['num_clips']} held-out clips of the film world", header, rows)
    cli.print_table(
        "captions",
        [
            "captioner",
            "main subject",
            "mean words",
            "most words",
            "abstained",
            "rejected",
            "CIDEr (not for ranking)",
            "own score (not for ranking)",
        ],
        [
            [
                item["captioner"],
                item["main_subject"],
                item["mean_words"],
                item["max_words"],
                item["num_abstained"],
                item["num_rejected"],
                item["not_for_ranking"]["cider"],
                item["not_for_ranking"]["contrastive_score"],
            ]
            for item in reports
        ],
    )
    cli.print_table(
        "counterfactual clips",
        ["change", "clips", "directions", "flip", "slots that must change, right", "other slots, kept"],
        [
            [
                item["kind"],
                item["num_clips"],
                item["num_directions"],
                item["direction_flips"],
                item["changed_slots_right"],
                item["other_slots_kept"],
            ]
            for item in result["counterfactuals"]
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Two caption versions of a dataset side by side, clip by clip.

    Example: rushes compare-captions DATASET default recaptioned --sheet compare.png
    """

    ranges: ClassVar[Ranges] = {"limit": COUNT_OR_NONE}

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    a: Annotated[str, tyro.conf.Positional]
    """A view, or a caption column such as caption@1a2b3c4d5e."""
    b: Annotated[str, tyro.conf.Positional]
    """Another."""
    kind: str = "dense"
    """Which captions."""
    limit: int = 10
    """Clips to print and to show on a sheet; 0 for all. JSON has all."""
    json: bool = False
    """Print JSON."""
    sheet: Path | None = None
    """Also write a PNG with frames."""
    overwrite: bool = False
    """Replace a sheet that exists."""

    def run(self) -> int:
        from captioner.judging.sheet import contact_sheet
        from media.decode.images import decode_image

        cli.check_picture("--sheet", self.sheet, is_overwriting=self.overwrite)
        dataset = Dataset(self.dataset)
        columns = [_caption_column(dataset, name) for name in (self.a, self.b)]
        sides = [_texts(dataset, column, self.kind) for column in columns]
        shared = sorted(set(sides[0]) & set(sides[1]))
        if not shared:
            raise UsageError(
                self.dataset,
                f"{columns[0]} and {columns[1]} share no clip with {self.kind} captions",
                "See `rushes ls DATASET captions`.",
            )
        told = [{name: _with_status(side[name]) for name in shared} for side in sides]
        rows = [{"clip_id": name, "a": told[0][name], "b": told[1][name]} for name in shared]
        printed = rows[: self.limit] if self.limit else rows
        counts = [
            np.mean([len(text.split()) for texts in side.values() for text, _ in texts]) for side in sides
        ]
        if self.json:
            cli.print_json(rows)
        else:
            summary = [
                [name, str(column), len(side), f"{count:.1f}"]
                for name, column, side, count in zip((self.a, self.b), columns, sides, counts, strict=True)
            ]
            cli.print_table("versions", ["side", "column", "clips", "mean words"], summary)
            for row in printed:
                print(f"\n{row['clip_id']}\n  a: {' | '.join(row['a'])}\n  b: {' | '.join(row['b'])}")
        if self.sheet:
            previews = View.load(dataset, self.a if "@" not in self.a else "default").column("preview")
            pictures = defaultdict(list)
            shown = [(str(row["clip_id"]), row["a"][0], row["b"][0]) for row in printed]
            wanted = {name for name, _, _ in shown}
            for tar, members in scans.members(dataset, previews).values():
                for member in members:
                    if member.key in wanted and member.field.startswith("frame"):
                        pictures[member.key].append(
                            decode_image(read_member(dataset.filesystem, tar, member))
                        )
            contact_sheet([(pictures[name], f"a: {one}\nb: {two}") for name, one, two in shown], self.sheet)
            cli.say(f"sheet: {self.sheet}")
        return cli.DONE


def _caption_column(dataset: Dataset, name: str) -> Column:
    if "@" in name:
        found = [column for column in dataset.columns() if str(column) == name]
        if not found:
            raise UsageError(
                name, "is not a column of the dataset", f"Columns: {', '.join(map(str, dataset.columns()))}."
            )
        return found[0]
    return View.load(dataset, name).column("caption")


def _with_status(texts: list[tuple[str, str]]) -> list[str]:
    """Captions with why they do not count, of those that do not."""
    return [text + ("" if status == "accepted" else f" [{status}]") for text, status in texts]


def _texts(dataset: Dataset, column: Column, kind: str) -> dict[str, list[tuple[str, str]]]:
    """Captions a backend wrote with their status, by clip; where it wrote none, those the clip came with."""
    own: dict[str, list[tuple[str, str]]] = defaultdict(list)
    given: dict[str, list[tuple[str, str]]] = defaultdict(list)
    fields = ["clip_id", "kind", "source", "status", "text"]
    for row in scans.table(dataset, "captions", column, fields).to_pylist():
        if row["kind"] == kind:
            side = given if row["source"] in {"ground_truth", "alt"} else own
            side[row["clip_id"]].append((row["text"], row["status"]))
    return given | own


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judge captions of real videos with a pinned judge model: events (DREAM-1K) or questions (VDC).

    More than one run shows how steady the judge is.

    Example: rushes judge-captions events dream-1k.jsonl captions.json --server URL --model NAME --runs 3
    """

    ranges: ClassVar[Ranges] = {"runs": COUNT}

    form: Annotated[str, tyro.conf.Positional]
    """events or questions."""
    truth: Annotated[Path, tyro.conf.Positional]
    """File of the benchmark (JSON or JSON lines)."""
    captions: Annotated[Path, tyro.conf.Positional]
    """What `caption --json` printed."""
    server: str
    """OpenAI-compatible server of the judge."""
    model: str
    """The judge; pin its version."""
    runs: int = 3
    """How often each verdict is asked for."""
    answers: Path | None = None
    """File that keeps every answer (JSON lines): what it holds is not asked again, so a judging that was
    stopped goes on."""

    def run(self) -> int:
        from captioner.backends.asking import asker, remembering
        from captioner.judging.judged import (
            judge_events,
            judge_questions,
            load_captions,
            load_truth,
            named_alike,
        )

        if self.form not in {"events", "questions"}:
            raise UsageError(self.form, "is not a form of benchmark", "Forms: events, questions.")
        for path in (self.truth, self.captions):
            if not path.exists():
                raise UsageError(str(path), "does not exist")
        judge = judge_events if self.form == "events" else judge_questions
        items = load_truth(self.truth, self.form)
        captions = named_alike(items, load_captions(self.captions))
        ask = asker(self.server, self.model)
        if self.answers:
            ask = remembering(ask, self.model, cli.with_folder(self.answers))
        result = judge(items, captions, ask, self.runs)
        cli.print_json({"judge": self.model, **result})
        return cli.DONE
