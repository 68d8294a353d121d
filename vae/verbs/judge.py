"""Verbs `eval-vae` and `latent-stats`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.views import View
from vae.checkpoint import load_vae
from vae.folder import DEFAULT_WEIGHTS, read_record, vae_folder
from vae.measuring import evaluate
from vae.measuring.stats import corpus_stats
from vae.training.clips import world_clips
from vae.verbs.paths import check_there, name_in, names_in_list


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Judge VAEs on held-out films and on real files, beside linear codes of the same size.

    Example: rushes eval-vae OUT weights/vae-tiny --footage ~/videos --sheet sheet.png
    """

    ranges: ClassVar[Ranges] = {"films": COUNT_OR_NONE, "threads": WORKERS}

    weights: Annotated[list[Path], tyro.conf.Positional] = field(default_factory=lambda: [DEFAULT_WEIGHTS])
    """Folders of VAEs, ours or of diffusers."""
    films: int = 32
    """Held-out films."""
    footage: Path | None = None
    """Folder of real files."""
    files: Path | None = None
    """List of names below it to judge on; the others serve the linear code. All, and none, otherwise."""
    sheet: Path | None = None
    """PNG to write: original, reconstruction, error."""
    overwrite: bool = False
    """Replace a sheet that exists."""
    json: bool = False
    """Print the report as JSON."""
    threads: int = 2
    """CPU threads."""

    def run(self) -> int:
        if not self.films and not self.footage:
            raise UsageError("--films 0", "leaves nothing to judge on", "Give films, or --footage FOLDER.")
        cli.check_picture("--sheet", self.sheet, is_overwriting=self.overwrite)
        for place in (self.footage, self.files, *map(vae_folder, self.weights)):
            check_there(place)
        torch.set_num_threads(self.threads)
        vaes = dict(zip(_names(self.weights), map(load_vae, self.weights), strict=True))
        sets, fit_on = dict[str, list[evaluate.Named]](), dict[str, list[evaluate.Named]]()
        if self.films:
            sets["film world"], fit_on["film world"] = (
                evaluate.film_clips(self.films),
                _fit_clips(self.films),
            )
        if self.footage:
            every = [path for path in sorted(self.footage.rglob("*")) if path.is_file()]
            chosen = (
                names_in_list(self.files, self.footage)
                if self.files
                else {name_in(path, self.footage) for path in every}
            )
            sets["real files"] = evaluate.real_clips(
                path for path in every if name_in(path, self.footage) in chosen
            )
            if not sets["real files"]:
                raise UsageError(str(self.footage), "holds no file to judge on", "Name a folder of videos.")
            others = [path for path in every if name_in(path, self.footage) not in chosen][:60]
            fit_on["real files"] = evaluate.real_clips(others) if others else sets["real files"]
        report = evaluate.evaluate(vaes, sets, fit_on)
        if self.sheet:
            report["sheet"] = str(self.sheet)
        if self.json:
            cli.print_json(report)
        else:
            print(evaluate.table(report))
        if self.sheet:  # last: it may meet a full disk
            shown = [clip for found in sets.values() for clip in found[:8]]
            evaluate.sheet(next(iter(vaes.values())), shown, self.sheet)
            cli.say(f"sheet: {self.sheet}")
        return cli.DONE


def _names(folders: list[Path]) -> list[str]:
    """What each is called: its folder's name, or its whole path where two have the same."""
    named = Counter(folder.resolve().name for folder in folders)
    return [own if named[own := each.resolve().name] == 1 else str(each) for each in folders]


def _fit_clips(count: int) -> list[evaluate.Named]:
    return [evaluate.Named("", clip) for clip in world_clips(max(32, count), 0)]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Sizes and scores of a VAE, or mean and standard deviation of each channel of a dataset's latents.

    Example: rushes latent-stats --data DATASET
    """

    weights: Annotated[Path, tyro.conf.Positional] = DEFAULT_WEIGHTS
    """Folder of the VAE."""
    data: str = ""
    """Dataset whose latent statistics to print instead."""
    view: str = "default"
    """View of the dataset."""

    def run(self) -> int:
        if self.data:
            dataset = Dataset(self.data)
            cli.print_json(corpus_stats(dataset, View.load(dataset, self.view).column("latent")))
            return cli.DONE
        vae = load_vae(self.weights)
        known = {
            "factors": list(vae.factors),
            "channels": vae.latent_channels,
            "chunk_rule": vae.chunk_rule,
            "fingerprint": vae.fingerprint,
        }
        print(json.dumps(known | read_record(self.weights), indent=2))
        return cli.DONE
