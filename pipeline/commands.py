"""Verbs that make a dataset: `plan`, `ingest`, `recaption`.

The road of a datum: a file becomes a source (`sources`); a source is cut into segments, which are dealt to
shards (`plan`). Then, shard by shard, `curate` finds and measures clips and makes previews, `caption`
describes them, `text` embeds the words, `encode` makes latents. Every step ends in a commit, so to resume is
to run the same command again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import pyarrow.compute as pc
import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Dataset, check_view_name
from manifests.runs.events import Aim
from manifests.signals import interrupt_on_signals
from manifests.tables import planned, scans
from manifests.views import View
from manifests.writing.lease import Lease
from pipeline.config import CaptionConfig, IngestConfig, Resources, TextConfig, check_resources
from pipeline.engine.cluster import check_address, session
from pipeline.engine.estimate import Prices, print_estimate
from pipeline.engine.run import build_stages, chosen, execute, open_for, plan_generation
from pipeline.footage.sources import list_sources
from pipeline.stages.caption import CaptionStage
from pipeline.stages.protocol import Stage
from pipeline.stages.score import words_of
from pipeline.stages.text import TextStage


@dataclass(frozen=True, kw_only=True)
class Plan(IngestConfig):
    """List and probe footage, and write which segment goes to which shard.

    Footage that the plan knows already is left alone.

    Example: rushes plan ~/videos --out DATASET --estimate
    """

    ranges: ClassVar[Ranges] = {"limit": COUNT_OR_NONE}

    footage: Annotated[list[str], tyro.conf.Positional]
    """Folders, files, patterns, s3:// or gs:// prefixes, http(s):// files, tars of media, or .txt, .csv,
    .jsonl and .parquet lists of them."""
    out: str
    """Dataset folder or address; made if missing."""
    limit: int = 0
    """Take only the first N files: the same ones at each run; 0 for all."""
    estimate: bool = False
    """Then say how many hours and how much money the ingest would take on this cluster, from measured rates.
    """
    prices: Prices = field(default_factory=Prices)

    def run(self) -> int:
        interrupt_on_signals()
        check_address()  # a cluster that is not there leaves nothing behind
        dataset, found = open_for(self.footage, self.out)
        plan = dataclasses.replace(self.plan, limit=self.limit or self.plan.limit)
        with Lease(dataset), session():
            plan_generation(dataset, found, plan, roots=self.footage)
            segments = planned.segments(dataset, fields=["shard", "start_s", "end_s"])
            length_s = pc.sum(pc.subtract(segments["end_s"], segments["start_s"])).as_py() or 0.0
            row = [len(segments), len(segments["shard"].unique()), length_s]
            cli.print_table("plan", ["segments", "shards", "seconds"], [row])
            if self.estimate:
                print_estimate(dataset, self.settings(), self.prices)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Ingest(IngestConfig):
    """Plan new footage, then curate, caption, embed and encode every shard that lacks a column.

    Run it again to resume.

    Embedded Ray by default; a cluster where RAY_ADDRESS names one; or: ray job submit --working-dir . --
    rushes ingest ...

    Examples:
      rushes ingest ~/videos --out DATASET
      rushes ingest ~/videos --out s3://bucket/dataset --encode.max-pixels 230400 --autoscaling
      rushes ingest ~/videos --out DATASET --only preview
    """

    ranges: ClassVar[Ranges] = {"limit": COUNT_OR_NONE}

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
    """Take only the first N files: the same ones at each run; 0 for all."""
    only: tuple[Literal["preview", "embed", "score", "caption", "text", "latent"], ...] = ()
    """Run these stages alone, on the shards that have what they read: so GPUs are not held while CPUs curate.
    Views and the search for near-duplicates are left as they are."""
    dry_run: bool = False
    """Say what would be done and stop."""
    json: bool = False
    """Print the outcome and the funnel as JSON."""

    def run(self) -> int:
        config = self.settings()
        stages = chosen(build_stages(config), self.only)
        if self.dry_run:
            return self._dry_run(stages)
        interrupt_on_signals()
        check_address()  # a cluster that is not there leaves nothing behind
        check_view_name(self.view)
        dataset, found = open_for(self.footage, self.out)
        plan = dataclasses.replace(self.plan, limit=self.limit or self.plan.limit)
        with Lease(dataset), session() as where:
            plan_generation(dataset, found, plan, roots=self.footage)
            return execute(
                dataset,
                stages,
                config,
                self.autoscaling,
                where,
                is_json=self.json,
                view="" if self.only else self.view,
            )

    def _dry_run(self, stages: list[Stage]) -> int:
        """Reads no file and writes nothing."""
        cli.check_lasting(self.out)
        check_view_name(self.view)
        files = [found.uri for found in list_sources(self.footage)]
        known: set[str] = set()
        shards: dict[str, str] = {str(stage.column): "all" for stage in stages}
        if (dataset := Dataset.open_if_there(self.out)) is not None:
            known = set(scans.table(dataset, "sources", None, ["uri"])["uri"].to_pylist())
            total = set(planned.shards(dataset))
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
class Recaption:
    """Add a caption column and a text column by another captioner. Previews and latents are not touched.

    Examples:
      rushes recaption DATASET --caption.captioner coca
      rushes recaption DATASET --view vlm --caption.captioner openai --caption.model NAME
        --caption.server http://127.0.0.1:8000/v1
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    base: str = "default"
    """View whose previews and latents are used."""
    view: str = "recaptioned"
    """View to point at the new captions."""
    autoscaling: bool = False
    """Trust the cluster's autoscaler to bring nodes that are not there yet."""
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    caption_on: Resources = field(default_factory=lambda: IngestConfig().caption_on)
    text_on: Resources = field(default_factory=lambda: IngestConfig().text_on)

    def run(self) -> int:
        check_resources(self)
        dataset = Dataset(self.dataset)
        base = View.load(dataset, self.base)
        caption = CaptionStage(self.caption, base.column("preview"), *words_of(dataset, base.columns))
        stages: list[Stage] = [caption, TextStage(self.text, caption.column, base.column("preview"))]
        shards = set(dataset.committed_shards(base.column("preview")))
        missing = set(planned.shards(dataset)) - shards
        if missing:
            raise UsageError(
                self.dataset, f"{len(missing)} shards have no previews yet", "Finish `rushes ingest` first."
            )
        interrupt_on_signals()
        columns = {**base.columns, "caption": caption.column, "text": stages[1].column}
        aim = Aim(view=self.view, columns=columns, where=base.where)
        own = {name: getattr(self, name) for name in ("caption", "text", "caption_on", "text_on")}
        with Lease(dataset), session() as where:
            code = execute(dataset, stages, IngestConfig(**own), self.autoscaling, where, aim=aim)
        if code in {cli.DONE, cli.FAILED_ITEMS}:
            View(columns=columns, where=base.where).save(dataset, self.view)
        return code
