"""Each feature on real files, of odd sides and of pixels that are not square: what is kept comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manifests import cli
from manifests.cli.frame import main
from media.decode.images import encode_png
from media.decode.probe import probe
from trainer.sampling.job.inputs import read_clip

pytestmark = pytest.mark.slow
FILES = ("am_bear-vp9-odd-dimensions.webm", pytest.param("skv_carphone.mp4", marks=pytest.mark.long))
S = 0.8  # of what is made anew


@pytest.fixture(params=FILES, scope="module")
def path(request, real_videos):
    return real_videos / request.param


@pytest.fixture(scope="module")
def clip(path):
    return read_clip(path)


@pytest.fixture
def sample(model_folder, tmp_path, clip):
    """A function from a number and options to frames: so many, of the size and the rate of the file."""

    def make(count, *words):
        out = tmp_path / "sample.mkv"
        quick = ("--steps", "1", "--guidance", "1", "--solver", "euler", "--overwrite", "--out", str(out))
        assert main(arguments=["sample", str(model_folder), *quick, *map(str, words)]) == cli.DONE
        facts = probe(str(out))
        height, width = clip.frames.shape[1:3]
        assert facts.geometry.display_size_px == (width, height)
        made = read_clip(out)
        assert made.fps == pytest.approx(clip.fps, rel=1e-3)
        assert len(made) == count
        return made.frames

    return make


@pytest.fixture
def new(clip):
    return round(S * clip.fps)


@pytest.fixture
def pictures(tmp_path, clip):
    """The first and last frame as pictures."""
    paths = [tmp_path / "first.png", tmp_path / "last.png"]
    for path, frame in zip(paths, (clip.frames[0], clip.frames[-1]), strict=True):
        path.write_bytes(encode_png(frame.numpy()))
    return paths


def test_pictures(sample, clip, pictures, new):
    first, last = pictures
    words = ("--image", first, "--last-image", last, "--fps", clip.fps, "--frames", new)
    frames = sample(new, *words, "--keyframe", f"{9 / clip.fps + 1e-3}={last}")
    assert torch.equal(frames[0], clip.frames[0])
    assert torch.equal(frames[9], clip.frames[-1])
    assert torch.equal(frames[-1], clip.frames[-1])


def test_extend(sample, clip, path, new):
    frames = sample(len(clip) + new, "--video", path, "--extend-after", S)
    assert torch.equal(frames[: len(clip)], clip.frames)
    frames = sample(len(clip) + new, "--video", path, "--extend-before", S)
    assert torch.equal(frames[new:], clip.frames)


def test_connect(sample, clip, path, new):
    frames = sample(2 * len(clip) + new, "--connect", path, path, "--gap", S)
    assert torch.equal(frames[: len(clip)], clip.frames)
    assert torch.equal(frames[-len(clip) :], clip.frames)


def test_loop(sample, clip, path, new):
    frames = sample(len(clip) + new, "--loop", "--video", path, "--gap", S)
    assert torch.equal(frames[: len(clip)], clip.frames)


def test_edits(sample, clip, path, tmp_path):
    assert torch.equal(sample(len(clip), "--edit", path, "--strength", 0), clip.frames)
    words = ("--prompt", "a dog", "--from-prompt", "a cat", "--window", 32)
    assert not torch.equal(sample(len(clip), "--edit", path, *words), clip.frames)
    mask = np.zeros((*clip.frames.shape[1:3], 3), np.uint8)
    mask[20:60, 30:90] = 255
    (tmp_path / "mask.png").write_bytes(encode_png(mask))
    masked = ("--strength", 1, "--mask", tmp_path / "mask.png", "--window", 32)
    frames = sample(len(clip), "--edit", path, *masked)
    outside = torch.from_numpy(mask[..., 0] == 0)
    assert torch.equal(frames[:, outside], clip.frames[:, outside])
    assert not torch.equal(frames[:, ~outside], clip.frames[:, ~outside])


def test_blend(sample, clip, path, new):
    frames = sample(2 * len(clip) - new, "--blend", path, path, "--seconds", S)
    kept = len(clip) - new - 1
    assert torch.equal(frames[:kept], clip.frames[:kept])
    assert torch.equal(frames[-kept:], clip.frames[-kept:])
