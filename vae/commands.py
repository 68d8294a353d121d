"""Verbs of the VAE: `encode`, `decode`, `train-vae`, `eval-vae`, `latent-stats`."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import tyro
from safetensors.torch import save_file

from learning.processes import join
from learning.weights import read_metadata, read_weights
from manifests import cli
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, WORKERS, Ranges
from manifests.errors import RushesError, UsageError
from manifests.layout import Dataset
from manifests.text import last_name
from manifests.views import View
from media.apart.reader import Reader, probe
from media.decode.images import encode_png
from media.errors import MediaError
from media.writer import write_video
from vae.checkpoint import load_own, load_vae, save_vae
from vae.folder import DEFAULT_WEIGHTS, read_record, vae_folder
from vae.grid import Extent
from vae.measuring import evaluate
from vae.measuring.stats import channel_stats, corpus_stats
from vae.network.model import CausalVAE, VAEConfig
from vae.pixels import as_float, to_video
from vae.training.clips import Windows, dataset_clips, footage_clips, world_clips
from vae.training.losses import psnr_db
from vae.training.train import TrainConfig, train

PUSH_FRAMES = 16


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
    """Weights of the same sizes to begin with; their record is kept in the new one. Otherwise the highway
    begins as principal components."""
    threads: int | None = None
    """CPU threads; as many as cores otherwise."""
    overwrite: bool = False
    """Replace finished weights."""
    model: VAEConfig = field(default_factory=VAEConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def _clips(self) -> list[torch.Tensor]:
        clips = world_clips(self.films, self.train.seed) if self.films else []
        if self.footage:
            left_out = set(self.without.read_text().split("\n")) if self.without else set()
            kept = [
                path
                for path in sorted(self.footage.rglob("*"))
                if path.is_file() and _name(path, self.footage) not in left_out
            ]
            clips += list(footage_clips(kept, self.per_file, self.train.seed))
        if self.data:
            clips += list(dataset_clips(self.data, self.view, self.most_clips, self.train.seed))
        return clips

    def run(self) -> int:
        cli.check_new(self.out / "model.safetensors", is_overwriting=self.overwrite)
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.manual_seed(self.train.seed)
        for folder in (self.footage, self.without, self.init and vae_folder(self.init)):
            _check_there(folder)
        clips = self._clips()
        if not clips:
            raise UsageError("--films, --footage, --data", "leave no clip to train on", "Give --films 800.")
        rank, count, _ = join()
        cli.say(
            f"vae: {len(clips)} clips, {sum(clip[0].numel() for clip in clips) / 1e6:.0f} M pixels, {count} "
            "processes"
        )
        model = load_own(self.init) if self.init else CausalVAE(self.model)
        windows = Windows(clips, self.train.budget, self.train.seed)
        record = train(model, windows, self.train, self.out / "training", is_fresh=self.init is None)
        if rank:
            return cli.DONE
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
        (self.out / "training" / "state.safetensors").unlink()
        cli.print_json({key: record[key] for key in ("held_out", "seconds", "command")})
        return cli.DONE

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


def _check_there(path: Path | None) -> None:
    """Refuse a file or folder that does not exist; None was not given."""
    if path is not None and not path.exists():
        raise UsageError(str(path), "does not exist", "Check the path.")


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


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
        cli.check_new(self.sheet, is_overwriting=self.overwrite)
        for place in (self.footage, self.files, *map(vae_folder, self.weights)):
            _check_there(place)
        torch.set_num_threads(self.threads)
        sets, fit_on = {"film world": evaluate.film_clips(self.films)}, {"film world": _fit_clips(self.films)}
        if self.footage:
            every = [path for path in sorted(self.footage.rglob("*")) if path.is_file()]
            chosen = (
                set(self.files.read_text().split("\n"))
                if self.files
                else {_name(path, self.footage) for path in every}
            )
            sets["real files"] = evaluate.real_clips(
                path for path in every if _name(path, self.footage) in chosen
            )
            if not sets["real files"]:
                raise UsageError(str(self.footage), "holds no file to judge on", "Name a folder of videos.")
            others = [path for path in every if _name(path, self.footage) not in chosen][:60]
            fit_on["real files"] = evaluate.real_clips(others) if others else sets["real files"]
        vaes = dict(zip(_names(self.weights), map(load_vae, self.weights), strict=True))
        report = evaluate.evaluate(vaes, sets, fit_on)
        if self.sheet:
            evaluate.sheet(
                next(iter(vaes.values())), [clip for found in sets.values() for clip in found[:8]], self.sheet
            )
            report["sheet"] = str(self.sheet)
        if self.json:
            cli.print_json(report)
        else:
            print(evaluate.table(report))
        return cli.DONE


def _names(folders: list[Path]) -> list[str]:
    """What each is called: its folder's name, or its whole path where two have the same."""
    named = Counter(folder.resolve().name for folder in folders)
    return [own if named[own := each.resolve().name] == 1 else str(each) for each in folders]


def _fit_clips(count: int) -> list[evaluate.Named]:
    return [evaluate.Named("", clip) for clip in world_clips(max(32, count), 0)]


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode one video or image of any shape and length to a latent file, and say how well it comes back.

    Example: rushes encode clip.mp4 clip.safetensors --max-pixels 65536
    """

    ranges: ClassVar[Ranges] = {"max_pixels": COUNT}

    source: Annotated[Path, tyro.conf.Positional]
    """Video or image."""
    out: Annotated[Path, tyro.conf.Positional]
    """Latent file (safetensors)."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the VAE."""
    max_pixels: int | None = None
    """Cap on width x height."""
    overwrite: bool = False
    """Replace a file that exists."""

    def _pieces(self, facts: object) -> Iterator[torch.Tensor]:
        batch: list[np.ndarray] = []
        for frame in Reader(facts, self.max_pixels).frames():  # type: ignore[arg-type]
            batch.append(frame.rgb)
            if len(batch) == PUSH_FRAMES:
                yield to_video(batch)
                batch = []
        if batch:
            yield to_video(batch)

    def run(self) -> int:
        cli.check_new(self.out, is_overwriting=self.overwrite)
        vae = load_vae(self.weights)
        stream, found, size, count = vae.stream(), [], (0, 0), 0
        try:
            facts = probe(str(self.source))
            for piece in self._pieces(facts):
                size, count = (piece.shape[2], piece.shape[3]), count + piece.shape[1]
                found += stream.push(as_float(piece))
            found += stream.flush()
            if not found:
                raise RushesError(str(self.source), "has no frame", "Give another file.")
            mean, logvar = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
            extent = Extent(count, *size)
            metadata = {
                "extent": ",".join(map(str, extent)),
                "fps": str(facts.fps or 0),
                "vae": vae.fingerprint,
                "first_type": "frame",
            }
            save_file(
                {"mean": mean.contiguous(), "logvar": logvar.contiguous()},
                cli.with_folder(self.out),
                metadata,
            )
            decoding = vae.decode_stream(extent)
            made = [*decoding.push(mean[:, :5]), *([] if mean.shape[1] > 5 else decoding.flush())]
            head = torch.cat(made, dim=1) if made else None
            told = ""
            if head is not None:
                original = as_float(next(self._pieces(facts)))[:, : head.shape[1]]
                told = (
                    f", round trip of the first {original.shape[1]} frames "
                    f"{psnr_db(head[:, : original.shape[1]], original):.2f} dB"
                )
        except MediaError as error:
            raise RushesError(str(self.source), error.message) from error
        cli.say(f"{tuple(extent)} frames x height x width to latent {tuple(mean.shape)}{told}")
        print(self.out)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode a latent file to a video, or to a PNG if it is one frame.

    Example: rushes decode clip.safetensors clip.mp4
    """

    latent: Annotated[Path, tyro.conf.Positional]
    """Latent file."""
    out: Annotated[Path, tyro.conf.Positional]
    """.mp4, .webm or .png."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the VAE."""
    overwrite: bool = False
    """Replace a file that exists."""

    def run(self) -> int:
        if not self.latent.exists():
            raise UsageError(str(self.latent), "does not exist")
        if self.out.suffix not in {".mp4", ".webm", ".png"}:
            raise UsageError(str(self.out), "is no kind of video or image", "Name a .mp4, .webm or .png.")
        cli.check_new(self.out, is_overwriting=self.overwrite)
        vae = load_vae(self.weights)
        metadata = read_metadata(self.latent)
        if "extent" not in metadata:
            raise UsageError(
                str(self.latent), "is no latent file of `rushes encode`: it does not say its extent"
            )
        if metadata.get("vae") != vae.fingerprint:
            raise RushesError(
                str(self.latent), "was encoded by another VAE", "Give its folder with --weights."
            )
        extent = Extent(*(int(part) for part in metadata["extent"].split(",")))
        if self.out.suffix == ".png" and extent.num_frames > 1:
            raise UsageError(
                str(self.out), f"cannot hold {extent.num_frames} frames", "Name a .mp4 or .webm."
            )
        frames = _frames(vae, read_weights(self.latent)["mean"], extent)
        if self.out.suffix == ".png":
            cli.with_folder(self.out).write_bytes(encode_png(next(frames)))
        else:
            write_video(
                cli.with_folder(self.out),
                frames,
                float(metadata["fps"]) or 24.0,
                "vp9" if self.out.suffix == ".webm" else "h264",
            )
        print(self.out)
        return cli.DONE


def _frames(vae: object, mean: torch.Tensor, extent: Extent) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] uint8 as they are decoded."""
    stream = vae.decode_stream(extent)  # type: ignore[attr-defined]
    pieces = (
        piece for index in range(0, mean.shape[1], 4) for piece in stream.push(mean[:, index : index + 4])
    )
    for piece in pieces:
        yield from ((piece + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    for piece in stream.flush():
        yield from ((piece + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Sizes and scores of a VAE, or mean and deviation of each channel of a dataset's latents.

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
