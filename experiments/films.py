"""Clips of the film world held in memory: drawn, encoded by the VAE, captioned and embedded.

All have one length and rate, so that shape, caption and model are what differs between arms.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from captioner.registry import make_text_encoder
from learning.weights import write_weights
from manifests.cli import say
from manifests.fingerprint import canonical_json
from trainer.data.tars.clip import StreamedClip
from trainer.judging.cases import UNSEEN_PX, Case
from trainer.sampling.canvas import Canvas
from vae.pixels import as_float
from vae.protocol import VAE
from world import captions
from world.film import SIZES_PX
from world.scene import sample_shot

FRAMES, FPS = 13, 8.0
TEXT_ENCODER = "coca"
TRAINED, ASKED = 1, 2
"""Which shots a draw is for: those to train on and those to ask for have no seed in common."""


@dataclass(frozen=True)
class Draw:
    """Which films.

    Attributes:
        scale: of the world's picture sizes.
        stills: share of them that are images.
        is_cropped: the middle square of each alone is encoded; captions tell of the whole, as they do where a
            training crops what it reads.
    """

    count: int
    scale: float
    stills: float
    is_cropped: bool = False
    seed: int = 0


def drawn(draw: Draw, what: int, shapes: Sequence[tuple[int, int]]) -> list[Case]:
    """Shots on canvases of these shapes."""
    return [_case(draw, what, shapes, number) for number in range(draw.count)]


def questions(draw: Draw) -> list[Case]:
    """Shots to ask for at shapes that were trained on, then as many at others."""
    seen, unseen = (drawn(draw, ASKED, shapes) for shapes in (SIZES_PX, UNSEEN_PX))
    return [*seen, *(replace(case, is_seen=False) for case in unseen)]


def _case(draw: Draw, what: int, shapes: Sequence[tuple[int, int]], number: int) -> Case:
    rng = np.random.default_rng([draw.seed, what, number])
    width, height = (max(16, round(side * draw.scale)) for side in shapes[int(rng.integers(len(shapes)))])
    frames = 1 if rng.random() < draw.stills else FRAMES
    canvas = Canvas(num_frames=frames, height_px=height, width_px=width, fps=FPS)
    duration_s = 0.0 if frames == 1 else frames / FPS
    return Case(sample_shot(int(rng.integers(1 << 31)), width / height, duration_s), canvas, is_seen=True)


def clips(
    draw: Draw, what: int, shapes: Sequence[tuple[int, int]], vae: VAE, work: Path
) -> list[StreamedClip]:
    """Drawn films as a training reads them, encoded once and kept below `work`."""
    cases = drawn(draw, what, shapes)
    texts = {kind: [_caption(case, kind) for case in cases] for kind in ("dense", "alt")}
    embedded = _embedded(sorted({text for own in texts.values() for text in own}))
    latents = _latents([asdict(draw), what, list(shapes)], cases, draw.is_cropped, vae, work)
    return [
        _clip(number, case, latents, {kind: embedded[own[number]] for kind, own in texts.items()}, draw)
        for number, case in enumerate(cases)
    ]


@functools.cache
def code_digest() -> str:
    """sha256 of the code that films and arms are made by: what another state of it made is not taken."""
    root, seen = Path(__file__).resolve().parents[1], hashlib.sha256()
    for folder in ("world", "experiments", "trainer/model", "trainer/data", "vae/network"):
        for path in sorted((root / folder).rglob("*.py")):
            seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


def _caption(case: Case, kind: str) -> str:
    return captions.dense(case.shot) if kind == "dense" else captions.alt([case.shot], case.shot.seed)


def _embedded(texts: Sequence[str]) -> dict[str, Tensor]:
    encoder = make_text_encoder(TEXT_ENCODER)
    encoder.setup()
    return dict(zip(texts, encoder.encode(list(texts)), strict=True))


def _latents(what: list, cases: Sequence[Case], is_cropped: bool, vae: VAE, work: Path) -> dict[str, Tensor]:
    """Mean and log variance of each clip by its number, from `work` where they are there."""
    key = canonical_json([*what, FRAMES, FPS, vae.fingerprint, code_digest()])
    path = work / f"films-{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors"
    if path.exists():
        return load_file(path)
    found: dict[str, Tensor] = {}
    for number, case in enumerate(cases):
        frames = _shown(case.render(), is_cropped)
        with torch.no_grad():
            latent = vae.encode(as_float(frames.permute(3, 0, 1, 2)), case.canvas.fps)
        found |= {f"{number}.mean": latent.mean, f"{number}.logvar": latent.logvar}
        if (number + 1) % 1000 == 0:
            say(f"experiments: {number + 1} of {len(cases)} films encoded")
    work.mkdir(parents=True, exist_ok=True)
    write_weights({name: value.half() for name, value in found.items()}, path)
    return load_file(path)


def _shown(frames: Tensor, is_cropped: bool) -> Tensor:
    """Frames [T, H, W, 3], or their middle square."""
    if not is_cropped:
        return frames
    side = min(frames.shape[1:3])
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side].contiguous()


def _clip(
    number: int, case: Case, latents: dict[str, Tensor], texts: dict[str, Tensor], draw: Draw
) -> StreamedClip:
    mean, logvar = latents[f"{number}.mean"].float(), latents[f"{number}.logvar"].float()
    channels, t, h, w = mean.shape
    canvas = case.canvas
    side = min(canvas.height_px, canvas.width_px)
    height, width = (side, side) if draw.is_cropped else (canvas.height_px, canvas.width_px)
    row = {
        "clip_id": f"{draw.seed}-{number:06d}",
        "shard": number // 64,
        "num_frames": canvas.num_frames,
        "height_px": height,
        "width_px": width,
        "fps": canvas.fps if canvas.num_frames > 1 else 0.0,
        "latent_t": t,
        "latent_h": h,
        "latent_w": w,
        "num_channels": channels,
        "factor_t": 4,
        "factor_px": 8,
    }
    listed = [(kind, kind, kind) for kind in texts]
    return StreamedClip(row, listed, (mean, logvar), texts)
