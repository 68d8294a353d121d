"""Verb `train-vae`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import tyro

from learning.loop.run_lock import one_at_a_time
from learning.processes import join
from learning.sharing import shared
from learning.stopping import Interrupted
from learning.weights import is_ours
from manifests import cli
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.text import last_name
from vae.checkpoint import load_own, save_vae
from vae.folder import read_record, vae_folder
from vae.measuring import evaluate
from vae.measuring.stats import channel_stats
from vae.network.model import CausalVAE, VAEConfig
from vae.training.clips import Windows, dataset_clips, footage_clips, world_clips
from vae.training.growth import with_channels
from vae.training.train import TrainConfig, train
from vae.verbs.paths import check_there, name_in, names_in_list


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the VAE on the film world, on footage, on a dataset's clips. The same command resumes.

    Examples:
      rushes train-vae OUT --films 800 --footage ~/videos --train.steps 8000
      torchrun --nproc-per-node 8 -m rushes train-vae OUT --data DATASET --films 0 --train.is-bf16
    """

    ranges: ClassVar[Ranges] = {
        "films": COUNT_OR_NONE,
        **dict.fromkeys(("per_file", "most_clips"), COUNT),
        "threads": WORKERS,
    }

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the weights; what is needed to resume lies in its `training` until the end."""
    films: int = 800
    """Clips of the film world to train on."""
    footage: Path | None = None
    """Folder of real videos and images to train on as well."""
    per_file: int = 4
    """Parts taken of each file."""
    without: Path | None = None
    """List of file names to leave out, one a line: kept for `eval-vae`."""
    data: str = ""
    """Dataset whose kept clips to train on as well."""
    view: str = "default"
    """View of the dataset."""
    most_clips: int = 2000
    """Clips of the dataset to draw."""
    init: Path | None = None
    """Weights to begin with; their record is kept in the new one. With a larger --model.latent-channels (16
    stands for none given) they grow: the new channels begin as what they leave wrong. Without weights the
    highway begins as principal components."""
    threads: int | None = None
    """CPU threads; as many as cores otherwise."""
    overwrite: bool = False
    """Replace finished weights."""
    model: VAEConfig = field(default_factory=VAEConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def _clips(self) -> list[torch.Tensor]:
        """Read by one process of each node, and mapped by its others."""
        found, _ = shared("the clips", lambda: (_named(self._read()), {}), mode="c")
        return [torch.from_numpy(clip) for clip in found.values()]

    def _read(self) -> list[torch.Tensor]:
        clips = world_clips(self.films, self.train.seed) if self.films else []
        if self.footage:
            left_out = names_in_list(self.without, self.footage) if self.without else set()
            kept = [
                path
                for path in sorted(self.footage.rglob("*"))
                if path.is_file() and name_in(path, self.footage) not in left_out
            ]
            clips += list(footage_clips(kept, self.per_file, self.train.seed))
        if self.data:
            clips += list(dataset_clips(self.data, self.view, self.most_clips, self.train.seed))
        return clips

    def run(self) -> int:
        self._check_new()
        cli.check_own(self.out, {"model.safetensors", "config.json", "training"})
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.manual_seed(self.train.seed)
        for folder in (self.footage, self.without, self.init and vae_folder(self.init)):
            check_there(folder)
        join()
        with one_at_a_time(self.out / "training", "vae"):
            self._check_new()
            return self._trained()

    def _check_new(self) -> None:
        weights = self.out / "model.safetensors"
        is_cut = not (self.out / "config.json").exists() and is_ours(weights)  # killed as it was written
        cli.check_new(weights, is_overwriting=self.overwrite or is_cut)

    def _trained(self) -> int:
        clips = self._clips()
        if not clips:
            raise UsageError("--films, --footage, --data", "leave no clip to train on", "Give --films 800.")
        rank, count, _ = join()
        cli.say(
            f"vae: {len(clips)} clips, {sum(clip[0].numel() for clip in clips) / 1e6:.0f} M pixels, {count} "
            "processes"
        )
        model = self._begun(clips)
        windows = Windows(clips, self.train.budget, self.train.seed, self.train.faded)
        try:
            record = train(model, windows, self.train, self.out / "training", is_fresh=self.init is None)
        except Interrupted as stopped:
            return stopped.code
        if rank:
            return cli.DONE
        cli.say("vae: judging on 32 films")
        held_out = {"film world": evaluate.film_clips(32)}
        codes = {"this VAE": evaluate.through(model)}
        scores = {
            name: evaluate.quality_table(codes, found, codes)["this VAE"] for name, found in held_out.items()
        }
        record |= {
            "held_out": scores,
            "latent_stats": channel_stats(model, clips[:256:2]),
            "data": self._data(len(clips)),
            "command": self._command(),
        }
        if self.init:
            record["began_as"] = {
                key: value
                for key, value in read_record(self.init).items()
                if key in {"command", "data", "seconds", "steps", "began_as"}
            }
        save_vae(model, self.out, record)
        (self.out / "training" / "state.safetensors").unlink(missing_ok=True)
        cli.print_json({key: record[key] for key in ("held_out", "seconds", "command")})
        return cli.DONE

    def _begun(self, clips: list[torch.Tensor]) -> CausalVAE:
        """The model as it is before training.

        Raises:
            UsageError: sizes were given that those of `--init` are not and cannot grow to.
        """
        if not self.init:
            return CausalVAE(self.model)
        model = load_own(self.init)
        if self.model in (VAEConfig(), model.config):
            cli.say(f"vae: going on from {self.init}, of {model.latent_channels} channels")
            return model
        wanted, own = self.model.latent_channels, model.latent_channels
        others, usual = replace(self.model, latent_channels=own), replace(VAEConfig(), latent_channels=own)
        if wanted <= own or others not in (usual, model.config):
            raise UsageError(
                f"--init {self.init}",
                "has other sizes than --model. names",
                f"Leave them out, or give more than its {own} --model.latent-channels.",
            )
        cli.say(f"vae: growing from {own} to {wanted} channels")
        return with_channels(model, wanted, clips, self.train.seed)

    def _data(self, count: int) -> str:
        others = [f"footage of {self.footage.name}"] if self.footage else []
        others += [f"dataset {last_name(self.data)}"] if self.data else []
        more = "".join(f", and {other}" for other in others)
        return f"film world, {self.films} clips of seed {self.train.seed}{more}; {count} clips in all"

    def _command(self) -> str:
        """The command line without the folders of this machine."""
        parts = [word.partition("=") if word.startswith("--") else ("", "", word) for word in sys.argv[2:]]
        return "rushes train-vae " + shlex.join(
            name + sign + (last_name(value) if "/" in value else value) for name, sign, value in parts
        )


def _named(clips: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {str(number): clip.numpy() for number, clip in enumerate(clips)}
