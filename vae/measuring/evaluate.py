"""Evaluation on held-out films and real footage, beside linear codes of the same size and other VAEs."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manifests.cli import say
from manifests.store import storage
from media.decode.images import encode_png
from media.errors import MediaError
from vae.measuring.measures import BlockPca, Quality, bicubic, constant_grid, measure, through
from vae.pixels import as_float
from vae.protocol import VAE
from vae.training.clips import read_part, world_clips
from vae.training.losses import psnr_db

HELD_OUT_SEED = 900_000
NUM_FRAMES = 17
PCA_CELLS = 12_288


@dataclass(frozen=True)
class Named:
    """A clip [3, T, H, W] uint8 and where it is from."""

    name: str
    video: Tensor


def film_clips(count: int) -> list[Named]:
    """Held-out clips of the film world; every eighth is a still."""
    found = world_clips(count, HELD_OUT_SEED)
    return [
        Named(f"film-{index}", clip[:, :1] if index % 8 == 7 else clip) for index, clip in enumerate(found)
    ]


def real_clips(paths: Iterable[Path]) -> list[Named]:
    """The first frames of files, at most 256 x 256 pixels; what cannot be read is named and passed over."""
    found = []
    for path in paths:
        try:
            if (clip := read_part(str(path), 0.0, 4.0, NUM_FRAMES)) is not None:
                found.append(Named(path.name, clip))
        except MediaError as error:
            say(f"vae: passed over {path.name}: {error.reason}")
    return found


def _mean(rows: list[Quality]) -> dict[str, Any]:
    values = [asdict(row) for row in rows]
    found: dict[str, Any] = {
        key: round(float(np.mean([value[key] for value in values])), 4)
        for key in ("psnr_db", "ssim", "flicker", "drift_db")
    }
    found["drift_median_db"] = round(float(np.median([row.drift_db for row in rows])), 4)
    found["bands"] = [
        round(float(np.median([row.bands[band] for row in rows])), 4) for band in range(len(rows[0].bands))
    ]
    return found


def quality_table(
    codes: dict[str, Callable[[Tensor], Tensor]], clips: list[Named], with_drift: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Mean measures of each code over clips; says a line for each as it is done."""
    drifting, found = set(with_drift), dict[str, dict[str, Any]]()
    for name, code in codes.items():
        begin_s = time.monotonic()
        found[name] = _mean([measure(code, as_float(clip.video), name in drifting) for clip in clips])
        say(
            f"vae: {len(clips)} clips through {name} in {time.monotonic() - begin_s:.1f} s "
            f"({len(found)} of {len(codes)})"
        )
    return found


def baselines(
    vae: VAE, factors: tuple[int, int, int], clips: list[Named]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Codes with as many numbers as the VAE's; the components are of other clips than those compared."""
    return {
        "block PCA": BlockPca(pca_cells(clips, factors), vae.latent_channels, factors),
        "bicubic": bicubic(factors, vae.latent_channels),
    }


def pca_cells(clips: list[Named], factors: tuple[int, int, int]) -> Tensor:
    """[N, 3 * f_t * f * f] cells of pixels to fit components on."""
    from vae.network.layers import patchify

    generator, found = torch.Generator().manual_seed(0), []
    for clip in clips:
        video = as_float(clip.video)
        whole = [side // factor * factor for side, factor in zip(video.shape[1:], factors, strict=True)]
        if min(whole):
            cells = (
                patchify(video[None, :, : whole[0], : whole[1], : whole[2]], factors[0], factors[1])[0]
                .flatten(1)
                .t()
            )
            found.append(
                cells[torch.randperm(len(cells), generator=generator)[: max(8, PCA_CELLS // len(clips))]]
            )
    return torch.cat(found)


def throughput(vae: VAE, side_px: int = 128, num_frames: int = 33, rounds: int = 3) -> dict[str, float]:
    """Megapixels a second of CPU time (GPU time on a GPU), encoding and decoding; medians."""
    device = next(vae.parameters()).device if isinstance(vae, torch.nn.Module) else torch.device("cpu")
    video = torch.rand(3, num_frames, side_px, side_px, device=device) * 2 - 1
    latent = vae.encode(video)
    megapixels = num_frames * side_px**2 / 1e6
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(rounds):
        for name, run in (("encode", lambda: vae.encode(video)), ("decode", lambda: vae.decode(latent))):
            begin = _clock(device)
            run()
            times[name].append(_clock(device) - begin)
    unit = "gpu" if device.type == "cuda" else "cpu"
    return {
        f"{name}_mpx_per_{unit}_s": round(megapixels / float(np.median(found)), 3)
        for name, found in times.items()
    }


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def evaluate(
    vaes: dict[str, VAE], sets: dict[str, list[Named]], fit_on: dict[str, list[Named]]
) -> dict[str, Any]:
    """Everything `rushes eval-vae` tells, as JSON-able data.

    Args:
        vaes: by name; the first is compared with codes of its size.
        sets: held-out clips by name.
        fit_on: other clips of the same kinds, for the linear code's components.
    """
    first = next(iter(vaes.values()))
    report: dict[str, Any] = {"sets": {}, "vaes": {}}
    for name, clips in sets.items():
        codes = {
            **{key: through(vae) for key, vae in vaes.items()},
            **baselines(first, first.factors, fit_on[name]),
        }
        say(f"vae: {name}, {len(clips)} clips through {len(codes)} codes")
        report["sets"][name] = {"clips": len(clips), "codes": quality_table(codes, clips, vaes)}
    for name, vae in vaes.items():
        report["vaes"][name] = {
            "factors": list(vae.factors),
            "channels": vae.latent_channels,
            "is_strictly_causal": vae.is_strictly_causal,
            "chunk_rule": vae.chunk_rule,
            "constant_grid_steps": round(constant_grid(vae), 3),
            **throughput(vae),
        }
    return report


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    for name, found in report["sets"].items():
        lines += [
            f"{name}, {found['clips']} clips",
            f"  {'':24}{'PSNR dB':>9}{'SSIM':>8}{'flicker':>9}{'drift dB':>10}{'median':>8}"
            "   error share, coarse to fine",
        ]
        for code, row in found["codes"].items():
            drift = f"{row['drift_db']:10.2f}{row['drift_median_db']:8.2f}"
            drift = drift if code in report["vaes"] else f"{'-':>10}{'-':>8}"
            bands = " ".join(f"{band:.3f}" for band in row["bands"])
            lines.append(
                f"  {code:24}{row['psnr_db']:9.2f}{row['ssim']:8.3f}{row['flicker']:9.3f}{drift}   {bands}"
            )
    for name, row in report["vaes"].items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return "\n".join(lines)


def sheet(vae: VAE, clips: list[Named], path: Path, tile_px: int = 192) -> None:
    """PNG with a row for each clip: original, reconstruction and four times the error of the middle frame."""
    font, rows = ImageFont.load_default(13), []
    for clip in clips:
        video = as_float(clip.video)
        made = vae.decode(vae.encode(video))
        middle = video.shape[1] // 2
        pictures = [video[:, middle], made[:, middle], (made - video)[:, middle] * 4]
        tiles = [
            _tile(((picture.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).byte().numpy(), tile_px)
            for picture in pictures
        ]
        row = Image.fromarray(np.concatenate(tiles, axis=1))
        ImageDraw.Draw(row).text(
            (4, 4), f"{clip.name}  {psnr_db(made, video):.1f} dB", fill=(255, 255, 0), font=font
        )
        rows.append(np.asarray(row))
    storage.write_local(path, encode_png(np.concatenate(rows, axis=0)))


def _tile(picture: np.ndarray, side_px: int) -> np.ndarray:
    scale = side_px / max(picture.shape[:2])
    small = cv2.resize(
        picture,
        (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))),
        interpolation=cv2.INTER_AREA,
    )
    out = np.full((side_px, side_px, 3), 24, np.uint8)
    out[: small.shape[0], : small.shape[1]] = small
    return out
