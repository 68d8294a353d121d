"""`python -m vae train | encode | decode`: train the spacetime VAE, encode a file, decode a latent."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors.torch import load_file, safe_open, save_file

from manifests import cli
from manifests.errors import RushesError
from media import MediaError, VideoReader, probe
from media.images import encode_png
from media.writer import write_video
from vae.checkpoint import DEFAULT_WEIGHTS, load_vae, save_vae, weights_digest
from vae.clips import build_pool, to_video
from vae.grid import Extent, Latent
from vae.model import CausalVAE, VAEConfig
from vae.train import as_float, psnr_db, train


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the VAE from scratch on the film world, and on real footage if given.

    Example: python -m vae train weights/vae-tiny --seconds 600 --footage ~/videos
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the weights."""
    seconds: float = 600.0
    """Wall clock to train for."""
    world_windows: int = 1200
    """Windows of the film world to train on."""
    footage: Path | None = None
    """Folder of real videos and images to train on as well."""
    seed: int = 0
    threads: int = 2
    """CPU threads."""

    def run(self) -> int:
        torch.manual_seed(self.seed)
        torch.set_num_threads(self.threads)
        pool = build_pool(self.world_windows, self.footage, self.seed)
        held_out = build_pool(48, None, self.seed + 7919)
        cli.say(f"vae: {len(pool)} training windows, {len(held_out)} held out")
        model = CausalVAE(VAEConfig())
        record = train(model, pool, held_out, self.seconds, self.seed)
        record["data"] = f"film world, {self.world_windows} windows" + (
            f", and {len(pool) - self.world_windows} windows of real footage" if self.footage else ""
        )
        footage = f" --footage {shlex.quote(self.footage.name)}" if self.footage else ""
        record["command"] = (
            f"python -m vae train {self.out.name} --seconds {self.seconds:g} --world-windows {self.world_windows} --seed {self.seed}{footage}"
        )
        save_vae(model, self.out, record)
        cli.print_json(record)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode one video or image of any shape to a latent file, and say how well it comes back.

    Example: python -m vae encode clip.mp4 clip.safetensors --max-pixels 65536
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Video or image."""
    out: Annotated[Path, tyro.conf.Positional]
    """Latent file (safetensors)."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the VAE."""
    max_pixels: int | None = None
    """Cap on width x height."""

    def run(self) -> int:
        try:
            facts = probe(str(self.source))
            frames = [frame.rgb for frame in VideoReader(facts, self.max_pixels).frames()]
        except MediaError as error:
            raise RushesError(str(self.source), error.message) from error
        model, video = load_vae(self.weights), as_float(to_video(frames))
        latent = model.encode(video)
        metadata = {"extent": ",".join(map(str, latent.extent)), "fps": str(facts.fps or 0), "vae": weights_digest(self.weights)}
        save_file({"mean": latent.mean.contiguous(), "logvar": latent.logvar.contiguous()}, self.out, metadata)
        cli.say(
            f"{tuple(video.shape[1:])} frames x height x width to latent {tuple(latent.mean.shape)}, round trip {psnr_db(model.decode(latent), video):.2f} dB"
        )
        print(self.out)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode a latent file to a video, or to a PNG if it is one frame.

    Example: python -m vae decode clip.safetensors clip.mp4
    """

    latent: Annotated[Path, tyro.conf.Positional]
    """Latent file."""
    out: Annotated[Path, tyro.conf.Positional]
    """.mp4, .webm or .png."""
    weights: Path = DEFAULT_WEIGHTS
    """Folder of the VAE."""

    def run(self) -> int:
        with safe_open(self.latent, "pt") as file:
            metadata = file.metadata()
        if metadata.get("vae") != weights_digest(self.weights):
            raise RushesError(str(self.latent), "was encoded by another VAE", "Give its folder with --weights.")
        tensors = load_file(self.latent)
        extent = Extent(*(int(part) for part in metadata["extent"].split(",")))
        video = load_vae(self.weights).decode(Latent(tensors["mean"], tensors["logvar"], extent))
        frames = ((video + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
        if self.out.suffix == ".png":
            self.out.write_bytes(encode_png(frames[0]))
        else:
            write_video(self.out, frames, float(metadata["fps"]) or 24.0, "vp9" if self.out.suffix == ".webm" else "h264")
        print(self.out)
        return cli.DONE


VERBS = {"train": Train, "encode": Encode, "decode": Decode}

if __name__ == "__main__":
    sys.exit(cli.main("python -m vae", "The spacetime VAE.", VERBS))
