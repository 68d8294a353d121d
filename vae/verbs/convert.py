"""Verbs `encode` and `decode`: a file to its latents, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import tyro

from learning.weights import read_metadata, read_weights, write_weights
from manifests import cli
from manifests.cli.ranges import COUNT, Ranges
from manifests.errors import RushesError, UsageError
from manifests.store import storage
from media.apart.reader import Reader, probe
from media.decode.images import encode_png
from media.errors import MediaError
from media.writer import write_video
from vae.checkpoint import load_vae
from vae.folder import DEFAULT_WEIGHTS
from vae.grid import Extent
from vae.pixels import as_float, to_video
from vae.training.losses import psnr_db

PUSH_FRAMES = 16
_CODECS = {".mp4": "h264", ".webm": "vp9", ".mkv": "ffv1"}
_KINDS = ", ".join((*_CODECS, ".png"))


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
    """Folder of the VAE, or a name under weights/."""
    max_pixels: int | None = None
    """Cap on width x height."""
    overwrite: bool = False
    """Replace a file that exists."""

    def _pieces(self, facts: object) -> Iterator[torch.Tensor]:
        batch: list[np.ndarray] = []
        size: tuple[int, ...] = ()
        for number, frame in enumerate(Reader(facts, self.max_pixels).frames()):  # type: ignore[arg-type]
            size = size or frame.rgb.shape
            if frame.rgb.shape != size:
                raise RushesError(
                    str(self.source),
                    f"changes its size at frame {number}, from {size[1]}x{size[0]}",
                    "Cut it there: `rushes ingest` makes clips of one size.",
                )
            batch.append(frame.rgb)
            if len(batch) == PUSH_FRAMES:
                yield to_video(batch)
                batch = []
        if batch:
            yield to_video(batch)

    def run(self) -> int:
        cli.check_new(self.out, is_overwriting=self.overwrite)
        _check_apart(self.source, self.out)
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
            write_weights({"mean": mean, "logvar": logvar}, cli.with_folder(self.out), metadata)
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
            cause = error.message.removeprefix(str(self.source)).lstrip(": ").rstrip(". ")
            raise RushesError(str(self.source), cause, "Give another file.") from error
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
    """.mp4, .webm, .mkv for every pixel as decoded, or .png."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the VAE, or a name under weights/."""
    overwrite: bool = False
    """Replace a file that exists."""

    def run(self) -> int:
        if not self.latent.is_file():
            raise UsageError(str(self.latent), "is a folder" if self.latent.exists() else "does not exist")
        if self.out.suffix not in {*_CODECS, ".png"}:
            raise UsageError(str(self.out), "names no kind of file that is made", f"Kinds: {_KINDS}.")
        cli.check_new(self.out, is_overwriting=self.overwrite)
        _check_apart(self.latent, self.out)
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
                str(self.out), f"cannot hold {extent.num_frames} frames", "Name a .mp4, .webm or .mkv."
            )
        frames = _frames(vae, read_weights(self.latent)["mean"], extent)
        if self.out.suffix == ".png":
            storage.write_local(self.out, encode_png(next(frames)))
        else:
            write_video(
                cli.with_folder(self.out),
                frames,
                float(metadata["fps"]) or 24.0,
                _CODECS[self.out.suffix],
            )
        print(self.out)
        return cli.DONE


def _check_apart(source: Path, out: Path) -> None:
    """
    Raises:
        UsageError: what is read would be replaced.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(str(out), "is what is read", "Name another file.")


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
