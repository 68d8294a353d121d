"""`rushes report`: validation of a run in the terminal; or a page of all there is to know of it or a dataset.

The page is one file with everything in it: it can be sent, printed and hung on a wall.
"""

from __future__ import annotations

import base64
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from manifests import cli
from manifests.cli.ranges import NOT_NEGATIVE, Ranges
from manifests.errors import RushesError, UsageError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.json_files import parse_lines
from manifests.text import shown

MOST_BYTES = 24 << 20
"""Of pictures and videos in one page."""
SAMPLES = 12


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run or a dataset has come to.

    Of a run, in the terminal: validation loss before and after, by shape class, beside two baselines
    (predicting the mean velocity, and reading another clip's captions). With --html, of a run or a dataset:
    one page: funnel, integrity, captions, curves, samples, cost, versions, commands.

    Examples:
      rushes report RUN
      rushes report DATASET --html report.html
    """

    ranges: ClassVar[Ranges] = {"cpu_price": NOT_NEGATIVE, "gpu_price": NOT_NEGATIVE}

    of: Annotated[str, tyro.conf.Positional]
    """Run folder of `fit`, or a dataset."""
    html: Path | None = None
    """Page to write."""
    json: bool = False
    """Print JSON, of a run."""
    cpu_price: float = 0.0
    """What an hour of a processor costs, for the page."""
    gpu_price: float = 0.0
    """The same of a GPU."""
    overwrite: bool = False
    """Replace a page that exists."""

    def run(self) -> int:
        if self.html is not None:
            cli.check_new(self.html, is_overwriting=self.overwrite)
            page = page_of(self.of, prices_of(self.cpu_price, self.gpu_price))
            storage.write_local(self.html, page.encode())
            print(self.html)
            return cli.DONE
        path = Path(self.of) / "validation.jsonl"
        if not path.exists():
            raise UsageError(
                self.of, "holds no run", "Train one with `rushes fit`; of a dataset add --html report.html."
            )
        rows = parse_lines(path.read_bytes(), str(path), "Delete the line.", ("step", "scores"))
        if not rows:
            raise UsageError(str(path), "has no validation yet", "Let the run go on.")
        if self.json:
            cli.print_json(rows)
            return cli.DONE
        first, last = rows[0], rows[-1]
        before, after = f"loss at step {first['step']}", f"loss at step {last['step']}"
        header = [
            "shape class",
            "clips",
            before,
            after,
            "with other captions",
            "so much worse",
            "mean velocity",
        ]
        table = []
        for name, scores in last["scores"].items():
            worse = f"{scores['shuffled'] / scores['loss'] - 1:+.2%}"
            start = first["scores"].get(name, {}).get("loss", "-")  # a class that new data brought
            table.append(
                [
                    name,
                    scores.get("clips", "-"),
                    start,
                    scores["loss"],
                    scores["shuffled"],
                    worse,
                    scores["baseline"],
                ]
            )
        cli.print_table("validation", header, table)
        return cli.DONE


def prices_of(cpu: float, gpu: float) -> tuple[float, float] | None:
    """Both prices; None where none was told."""
    return (cpu, gpu) if cpu or gpu else None


def page_of(address: str, prices: tuple[float, float] | None) -> str:
    """The page of a run or of a dataset, as text.

    Raises:
        UsageError: it is neither.
    """
    run = Path(address) if (Path(address) / "metrics.jsonl").is_file() else None
    if run is None:
        return _page(Dataset(address), [], prices)
    from dashboard.training import read_json

    uri = read_json(run / "run.json").get("dataset", "")
    try:
        dataset = Dataset(uri) if uri else None
    except (RushesError, OSError):
        dataset = None  # moved, or on another machine: what the run itself knows is told
    return _page(dataset, [run], prices)


def _page(dataset: Dataset | None, runs: list[Path], prices: tuple[float, float] | None) -> str:
    from jinja2 import Environment, FileSystemLoader

    from dashboard import drawing, site
    from dashboard.training import Run

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(site.FILTERS)
    style = (Path(__file__).parent / "static" / "style.css").read_text()
    data: dict[str, Any] = {"made_s": time.time(), "dataset": None, "style": style, "drawing": drawing}
    room = MOST_BYTES
    if dataset is not None:
        with tempfile.TemporaryDirectory() as folder:
            found, room = _of_dataset(dataset, Path(folder), prices, room)
        data |= found
        if not runs:
            runs = [Path(run["path"]) for run in found["trainings"]]
    followed = []
    for path in runs:
        run = Run(path.name, path)
        run.look()
        told, room = _of_run(run, room)
        followed.append(told)
    return environment.get_template("report.html").render(**data, runs=followed)


def _of_dataset(
    dataset: Dataset, folder: Path, prices: tuple[float, float] | None, room: int
) -> tuple[dict[str, Any], int]:
    from dashboard import training
    from dashboard.asking.filters import Filters
    from dashboard.index.index import Index
    from dashboard.media import member_bytes
    from dashboard.pages import captions, clips, drops, now, runs
    from dashboard.site import Site
    from manifests.runs.events import run_ids

    index = Index(dataset, folder)
    try:
        index.wait(600)
        site = Site(dataset, index, prices=prices)
        scope = site.scopes.named("")
        grid = site.grids.of(scope)
        some, _ = clips.some_clips(site, scope, Filters(sort="random:1"), SAMPLES)
        pictures = []
        for clip in some:
            data = member_bytes(index, clip["clip_id"], "poster.jpg")
            if data is not None and len(data) < room:
                room -= len(data)
                pictures.append({**clip, "picture": _inline(data, "image/jpeg")})
        ingests, before = [], dict[str, Any]()
        for run_id in run_ids(dataset)[-5:]:
            ingests.append(runs.one_run(site, run_id, before))
            before = ingests[-1]["config"]
        seconds = index.value(f"{scope.tables} SELECT sum(seconds) FROM clips")
        return {
            "dataset": shown(dataset.uri),
            "scope": scope,
            "funnel": now.funnel(site, scope),
            "reasons": drops.reasons(site, scope),
            "counts": grid.counts(),
            "problems": list(grid.problems.values())[:20],
            "captions": captions.versions(site),
            "footage_s": seconds or 0.0,
            "num_clips": site.kept.number(scope, Filters()),
            "clips": pictures,
            "ingests": ingests[::-1],
            "trainings": [{"path": str(path)} for path in training.folders(site).values()],
        }, room
    finally:
        index.close()


def _of_run(run: Any, room: int) -> tuple[dict[str, Any], int]:
    from dashboard.pages.train import curves
    from dashboard.training import read_json

    samples = []
    by_step = run.samples()
    for sample in by_step[-1]["samples"] if by_step else []:
        path = run.sample_file(by_step[-1]["step"], sample["file"])
        if path is not None and path.stat().st_size < room:
            room -= path.stat().st_size
            kind = "video/webm" if path.suffix == ".webm" else "image/png"
            inline = _inline(path.read_bytes(), kind)
            samples.append({**sample, "inline": inline, "is_video": kind == "video/webm"})
    return {
        "name": run.name,
        "record": read_json(run.path / "run.json"),
        "config": read_json(run.path / "config.json"),
        "last": run.last(),
        "curves": curves(run, "step"),
        "validation": run.validation[-1] if run.validation else None,
        "before": run.validation[0] if run.validation else None,
        "step": by_step[-1]["step"] if by_step else None,
        "samples": samples,
    }, room


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
