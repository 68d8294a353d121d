"""The colours that the world paints with: how likely a pixel is under each background and under each thing.

Histograms over RGB, made of renders and blurred a little, so that compression and a decoder's errors do not
make a pixel impossible.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import cv2
import numpy as np

from world.render import render_frame
from world.scene import SHAPES, SIZES, TEXTURES, Shot, Thing

Array = np.ndarray
BINS = 40
"""Bins of a histogram along each channel."""
BLUR = 0.8
"""Width of the blur, in bins."""
FLOOR = 2e-6
"""Likelihood of a pixel that was never seen."""
_BLANK = Shot(0, 2.0, "studio", "daylight", "static", 0.0)


def bins_of(pixels: Array) -> Array:
    """The bin of each pixel [..., 3] uint8, as one number."""
    parts = pixels.astype(np.int64) * BINS // 256
    found: Array = (parts[..., 0] * BINS + parts[..., 1]) * BINS + parts[..., 2]
    return found


def _histogram(pixels: Array) -> Array:
    """Log likelihood of each bin, [BINS ** 3]."""
    counts = np.bincount(bins_of(pixels).ravel(), minlength=BINS**3).reshape(BINS, BINS, BINS)
    smooth = cv2.GaussianBlur(counts.astype(np.float64), (0, 0), BLUR)  # red and green
    smooth = cv2.GaussianBlur(smooth.transpose(2, 0, 1).copy(), (0, 0), sigmaX=1e-6, sigmaY=BLUR)  # blue
    smooth = smooth.transpose(1, 2, 0)
    found: Array = np.log(smooth / smooth.sum() + FLOOR).ravel()
    return found


@functools.cache
def background(name: str, light: str) -> Array:
    """Log likelihood of colours of a background, shadows on it included, [BINS ** 3]."""
    pictures = []
    for seed in range(12):
        shot = replace(_BLANK, seed=seed * 7919, background=name, light=light)
        picture = render_frame(shot, 0.0, 96, 64)
        pictures += [picture, picture, (picture * 0.82).astype(np.uint8), (picture * 0.66).astype(np.uint8)]
    return _histogram(np.stack(pictures))


@functools.cache
def thing(color: str, light: str) -> Array:
    """Log likelihood of colours of a thing's surface, of any shape, size and texture, [BINS ** 3]."""
    pixels = []
    for shape in SHAPES:
        for texture in TEXTURES:
            for size in SIZES:
                own = Thing(shape, color, size, texture, "still", 0.0, 0.0, 0.0, 0.0, 0.3)
                pixels.append(painted(replace(_BLANK, light=light), own))
    return _histogram(np.concatenate(pixels))


def painted(shot: Shot, own: Thing) -> Array:
    """The pixels [n, 3] that a thing covers wholly: those that are alike before two backgrounds."""
    one, other = (
        render_frame(replace(shot, background=name, things=[own]), 1.0, 96, 64)
        for name in ("night sky", "desert")
    )
    inside = np.abs(one.astype(int) - other.astype(int)).max(axis=-1) <= 1
    return one[inside]
