"""`python -m pipeline plan | ingest | recaption | retry | replay | launch | status`: raw footage to shard
columns.

The road of a datum: a file becomes a source (`sources`), a source is cut into segments and dealt to shards
(`plan`); then, shard by shard, `curate` finds and measures clips and makes previews, `caption` describes
them, `text` embeds the words, `encode` makes latents. Every arrow ends in a commit; to resume is to run the
same command again.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Annotated

import ray
import tyro

from manifests import cli, queries
from manifests.errors import UsageError
from manifests.events import read_events, run_ids
from manifests.layout import Column, Dataset
from manifests.views import View
from pipeline.config import IngestConfig
from pipeline.engine.cluster import connect, interrupt_on_signals
from pipeline.engine.estimate import Prices, print_estimate
from pipeline.engine.launch import Launch
from pipeline.engine.repair import Replay, Retry
from pipeline.engine.run import build_stages, execute, open_for, plan_generation
from pipeline.footage.sources import list_sources
from pipeline.stages.caption import CaptionStage
from pipeline.stages.protocol import Stage
from pipeline.stages.text import TextStage


@dataclass(frozen=True, kw_only=True)
class Plan(IngestConfig):
    """List and probe footage, and write which segment goes to which shard. Footage the plan knows already is
    left alone.

    Example: python -m pipeline plan ~/videos --out DATASET
    """

    footage: Annotated[list[str], tyro.conf.Positional]
    """Folders, files, patterns, s3:// or gs:// prefixes, http(s):// files, tars of media, or .txt, .csv,
    .jsonl and .parquet lists of them."""
    out: str
    """Dataset folder or address; made if missing."""
    limit: int = 0
    """Take only the first N new files; 0 for all."""
    estimate: bool = False
    """Then say how many hours and how much money the ingest would take on this cluster, from measured rates.
    """
    prices: Prices = field(default_factory=Prices)

    def run(self) -> int:
        dataset, found = open_for(self.footage, self.out)
        connect()
        plan_generation(dataset, found, dataclasses.replace(self.plan, limit=self.limit or self.plan.limit))
        segments = queries.plan(dataset)
        cli.print_table(
            "plan",
            ["segments", "shards", "seconds"],
            [
                [
                    len(segments),
                    len(segments["shard"].unique()),
                    sum(row["end_s"] - row["start_s"] for row in segments.to_pylist()),
                ]
            ],
        )
        if self.estimate:
            config = IngestConfig(
                **{item.name: getattr(self, item.name) for item in dataclasses.fields(IngestConfig)}
            )
            print_estimate(dataset, config, self.prices)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Ingest(IngestConfig):
    """Plan new footage, then curate, caption, embed and encode every shard that lacks a column. Run it again
    to resume.

    Embedded Ray by default; a cluster where RAY_ADDRESS names one; or: ray job submit --working-dir . --
    python -m pipeline ingest ...

    Examples:
      python -m pipeline ingest ~/videos --out DATASET
      python -m pipeline ingest ~/videos --out s3://bucket/dataset --encode.max-pixels 230400 --autoscaling
    """

    footage: Annotated[list[str], tyro.conf.Positional]
    """Folders, files, patterns, s3:// or gs:// prefixes, http(s):// files, tars of media, or .txt, .csv,
    .jsonl and .parquet lists of them."""
    out: str
    """Dataset folder or address; made if missing."""
    view: str = "default"
    """View to point at the columns made."""
    autoscaling: bool = False
    """Trust the cluster's autoscaler to bring nodes that are not there yet."""
    limit: int = 0
    """Take only the first N new files; 0 for all."""
    dry_run: bool = False
    """Say what would be done and stop."""
    json: bool = False
    """Print the outcome and the funnel as JSON."""

    def run(self) -> int:
        config = IngestConfig(
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(IngestConfig)}
        )
        stages = build_stages(config)
        if self.dry_run:
            return self._dry_run(stages)
        dataset, found = open_for(self.footage, self.out)
        where = connect()
        plan_generation(dataset, found, dataclasses.replace(self.plan, limit=self.limit or self.plan.limit))
        return execute(dataset, stages, config, self.autoscaling, where, is_json=self.json, view=self.view)

    def _dry_run(self, stages: list[Stage]) -> int:
        """Reads no file and writes nothing."""
        files = [found.uri for found in list_sources(self.footage)]
        known: set[str] = set()
        shards: dict[str, str] = {str(stage.column): "all" for stage in stages}
        if (dataset := Dataset.open_if_there(self.out)) is not None:
            known = set(queries.table(dataset, "sources")["uri"].to_pylist())
            total = {row["shard"] for row in queries.plan(dataset).to_pylist()}
            for stage in stages:
                missing = total - set(dataset.committed_shards(stage.column))
                shards[str(stage.column)] = f"{len(missing)} of {len(total)}, and those of new files"
        cli.print_table(
            "dry run", ["files", "new"], [[len(files), len([uri for uri in files if uri not in known])]]
        )
        cli.print_table(
            "columns to make", ["column", "shards"], [[column, text] for column, text in shards.items()]
        )
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Recaption(IngestConfig):
    """Make a caption and a text column by another captioner, beside the ones there are. Previews and latents
    are not touched.

    Examples:
      python -m pipeline recaption DATASET --caption.captioner coca
      python -m pipeline recaption DATASET --caption.captioner openai --caption.server
      http://127.0.0.1:8000/v1 --caption.model NAME --view vlm
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    base: str = "default"
    """View whose previews and latents are used."""
    view: str = "recaptioned"
    """View to point at the new captions."""
    autoscaling: bool = False
    """Trust the cluster's autoscaler to bring nodes that are not there yet."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        base = View.load(dataset, self.base)
        caption = CaptionStage(self.caption, base.column("preview"))
        stages: list[Stage] = [caption, TextStage(self.text, caption.column)]
        where = connect()
        config = IngestConfig(
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(IngestConfig)}
        )
        shards = set(dataset.committed_shards(base.column("preview")))
        missing = {row["shard"] for row in queries.plan(dataset).to_pylist()} - shards
        if missing:
            raise UsageError(
                self.dataset,
                f"{len(missing)} shards have no previews yet",
                "Finish `python -m pipeline ingest` first.",
            )
        code = execute(dataset, stages, config, self.autoscaling, where)
        if code in {cli.DONE, cli.FAILED_ITEMS}:
            View(
                columns={**base.columns, "caption": caption.column, "text": stages[1].column},
                where=base.where,
            ).save(dataset, self.view)
        return code


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is committed, what is missing, and the last events.

    Example: python -m pipeline status DATASET
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    events: int = 10
    """Last events of the last run to print."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        shards = {row["shard"] for row in queries.plan(dataset).to_pylist()}
        columns: dict[Column, int] = {
            column: len(dataset.committed_shards(column)) for column in dataset.columns()
        }
        runs = run_ids(dataset)
        events = read_events(dataset, runs[-1])[-self.events :] if runs else []
        if self.json:
            cli.print_json(
                {
                    "num_shards": len(shards),
                    "columns": {str(key): value for key, value in columns.items()},
                    "runs": runs,
                    "events": events,
                }
            )
            return cli.DONE
        cli.print_table(
            "columns",
            ["column", "committed", "of"],
            [[str(column), count, len(shards)] for column, count in columns.items()],
        )
        cli.print_table(
            "last events",
            ["time_s", "stage", "shard", "event", "text"],
            [[row["time_s"], row["stage"], row["shard"], row["event"], row["text"]] for row in events],
        )
        return cli.DONE


VERBS = {
    "plan": Plan,
    "ingest": Ingest,
    "recaption": Recaption,
    "retry": Retry,
    "replay": Replay,
    "launch": Launch,
    "status": Status,
}


def main() -> int:
    """Run a verb; SIGTERM ends like Ctrl-C, and Ray is let go of in every case."""
    interrupt_on_signals()
    try:
        return cli.main("python -m pipeline", "Raw footage to shard columns, on Ray.", VERBS)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
