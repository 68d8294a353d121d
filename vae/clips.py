"""Training windows for the VAE: short crops of the film world and of real footage, as one tensor in memory.

Cropping here is of the training window only; encoding never crops.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.cli import say
from media import MediaError, VideoReader, probe
from world.render import render_frame
from world.scene import sample_shot


def to_video(frames: list[np.ndarray]) -> Tensor:
    """Frames [H, W, 3] uint8 to video [3, T, H, W] uint8."""
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def world_window(seed: int, num_frames: int, size_px: int) -> Tensor:
    """A window of a random shot of the film world, [3, T, S, S] uint8; the picture itself is larger."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(size_px, 2 * size_px + 1, 2))
    fps, shot = float(rng.choice([8, 12, 16, 24, 30])), sample_shot(int(rng.integers(1 << 31)), width / height, 2.0)
    top, left, start = int(rng.integers(0, height - size_px + 1)), int(rng.integers(0, width - size_px + 1)), rng.uniform(0, 1.0)
    frames = [render_frame(shot, start + i / fps, width, height)[top : top + size_px, left : left + size_px] for i in range(num_frames)]
    return to_video(frames)


def footage_windows(folder: Path, num_frames: int, size_px: int, per_file: int, seed: int, max_pixels: int = 256 * 256) -> list[Tensor]:
    """Windows of the real videos and images below `folder`; files that cannot be read are named and passed over."""
    rng = np.random.default_rng(seed)
    found: list[Tensor] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            facts = probe(str(path))
            frames = []
            for frame in VideoReader(facts, max_pixels, decoder="pyav").frames(0.0, min(facts.duration_s + 1, 12.0)):
                if not frame.is_damaged:
                    frames.append(frame.rgb)
                if len(frames) >= 160:
                    break
        except MediaError as error:
            say(f"passed over {path.name}: {error.reason}")
            continue
        if not frames or min(frames[0].shape[:2]) < size_px:
            continue
        if len(frames) < num_frames:
            frames = [frames[0]] * num_frames if len(frames) == 1 else (frames * num_frames)[:num_frames]
        for _ in range(per_file):
            top, left = (int(rng.integers(0, side - size_px + 1)) for side in frames[0].shape[:2])
            start = int(rng.integers(0, len(frames) - num_frames + 1))
            found.append(to_video([frame[top : top + size_px, left : left + size_px] for frame in frames[start : start + num_frames]]))
    return found


def build_pool(num_world: int, footage: Path | None, seed: int, num_frames: int = 17, size_px: int = 64) -> Tensor:
    """[N, 3, T, S, S] uint8 training windows."""
    windows = [world_window(seed * 1_000_003 + i, num_frames, size_px) for i in range(num_world)]
    if footage is not None:
        windows += footage_windows(footage, num_frames, size_px, per_file=8, seed=seed)
    return torch.stack(windows)
