"""A model folder of the real architecture, small and untrained, and small videos to begin with."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
import torch

from media.writer import write_video
from trainer.config import FlowConfig, ModelConfig
from trainer.model.dit import DiT
from trainer.sampling.trained import FORMAT, RECORD
from trainer.state.export import save_model
from world.render import render_frame
from world.scene import sample_shot


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """An exported model whose predictions are not zero."""
    folder = tmp_path_factory.mktemp("model")
    config = ModelConfig(width=32, depth=1, num_heads=2, text_width=128)
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) * 0.2 for name, value in DiT(config).state_dict().items()}
    record = {
        "format": FORMAT,
        "model": asdict(config),
        "flow": asdict(FlowConfig()),
        "latent_mean": [0.0] * 16,
        "latent_std": [1.0] * 16,
        "text_encoder": "hashed-words",
        "text_model": "",
        "vae": "",
        "phrases": {
            "camera": ["The camera is static."],
            "light": ["daylight"],
            "style": "",
            "still_style": "",
        },
    }
    (folder / RECORD).write_text(json.dumps(record))
    save_model(folder, weights, folder)
    return folder


def film(seed, count, width, height, fps):
    """Frames [T, H, W, 3] uint8 of the film world."""
    shot = sample_shot(seed, width / height, count / fps)
    return np.stack([render_frame(shot, index / fps, width, height) for index in range(count)])


def write_uneven(path, times_ms, width=24, height=16):
    """A video of the film world without loss, its frames at these times; returns the frames."""
    import av

    frames = film(1, len(times_ms), width, height, 25.0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for time_ms, frame in zip(times_ms, frames, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts = time_ms
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return frames


@pytest.fixture(scope="session")
def two_films(tmp_path_factory):
    """Two videos of 41 x 27 pixels at 10 frames a second, of 23 and 18 frames, written without loss."""
    folder = tmp_path_factory.mktemp("films")
    paths = [folder / "one.mkv", folder / "two.mkv"]
    for seed, (path, count) in enumerate(zip(paths, (23, 18), strict=True)):
        write_video(path, film(seed, count, 41, 27, 10.0), 10.0, "ffv1")
    return paths
