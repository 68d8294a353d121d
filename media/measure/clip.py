"""Measurements of a clip over the whole picture, from what the curating pass already has.

Preview pictures (about two a second) are measured one by one as they pass (`look`); a clip's numbers sum up
its pictures' (`measure`). They are stored,
not judged: what to keep is a predicate in a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from media.measure.camera import camera

BLACK_LUMA, WHITE_LUMA, PLAIN_STD, FROZEN = 0.06, 0.94, 0.02, 0.25 / 255
BAR_LUMA = 24
STILL_MOTION = (
    0.01  # object motion, in picture heights a second, over which a clip is surely no still picture
)
_PALETTE = {
    "black": (16, 16, 16),
    "grey": (128, 128, 128),
    "white": (240, 240, 240),
    "red": (200, 40, 40),
    "orange": (230, 130, 40),
    "yellow": (230, 210, 60),
    "green": (70, 150, 70),
    "cyan": (90, 190, 200),
    "blue": (50, 90, 190),
    "purple": (130, 70, 170),
    "pink": (230, 140, 180),
    "brown": (120, 80, 50),
    "beige": (220, 200, 165),
}
_ANCHORS = np.array(list(_PALETTE.values()), np.float32)
_IS_COLOURFUL = np.ptp(_ANCHORS, axis=1) > 0
_GREY_CHROMA = 14
"""Largest less smallest of red, green and blue, of 255, below which a pixel is black, grey or white, however
near a brown or a beige may be."""
_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True)
class Look:
    """Numbers of one picture. Shares and levels are 0 to 1."""

    luma_mean: float
    luma_std: float
    saturation: float
    sharpness: float  # variance of the Laplacian on 0..255 luma
    noise: float  # standard deviation of the noise on 0..255 luma (Immerkaer 1996)
    flat_share: float  # pixels equal to their right and lower neighbours
    colours: np.ndarray  # share of each palette colour
    row_max: np.ndarray  # brightest luma of each row, for bars
    column_max: np.ndarray


def look(rgb: np.ndarray) -> Look:
    """Measure one picture, [H, W, 3] uint8, at preview size."""
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    height, width = luma.shape
    mean, std = (float(value[0, 0]) / 255 for value in cv2.meanStdDev(luma))
    small = _tiny(rgb)
    pixels = small.reshape(-1, 3).astype(np.float32)
    away = (_ANCHORS**2).sum(1) - 2 * pixels @ _ANCHORS.T  # squared, less what is the same for all colours
    nearest = np.where((np.ptp(pixels, axis=1) < _GREY_CHROMA)[:, None] & _IS_COLOURFUL, np.inf, away).argmin(
        1
    )
    second = cv2.filter2D(luma, cv2.CV_16S, _NOISE_MASK)
    flat = (luma[:-1, :-1] == luma[1:, :-1]) & (luma[:-1, :-1] == luma[:-1, 1:])
    return Look(
        luma_mean=mean,
        luma_std=std,
        saturation=float(cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., 1].mean()) / 255,
        sharpness=float(cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1][0, 0]) ** 2,
        noise=float(
            np.sqrt(np.pi / 2) * cv2.norm(second, cv2.NORM_L1) / (6 * max(1, (width - 2) * (height - 2)))
        ),
        flat_share=np.count_nonzero(flat) / flat.size if flat.size else 1.0,
        colours=np.bincount(nearest, minlength=len(_PALETTE)) / len(nearest),
        row_max=luma.max(1),
        column_max=luma.max(0),
    )


def _tiny(rgb: np.ndarray) -> np.ndarray:
    """[24, 24, 3] uint8: averages; those of two by two pixels first, which come at the speed of memory."""
    height, width = rgb.shape[:2]
    if min(height, width) >= 96 and height % 2 == width % 2 == 0:
        rgb = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(rgb, (24, 24), interpolation=cv2.INTER_AREA)


def palette(looks: list[Look], count: int = 3) -> list[str]:
    """Names of the most frequent colours, most frequent first, each with at least a tenth of the picture."""
    shares, names = np.mean([item.colours for item in looks], axis=0), list(_PALETTE)
    return [names[index] for index in np.argsort(-shares, kind="stable")[:count] if shares[index] >= 0.1]


def bars_px(looks: list[Look], display_width_px: int) -> list[int]:
    """Black bars at top, bottom, left, right in display pixels, where they stay black through the whole clip.

    Flagged, never cropped.
    """
    rows, columns = (
        np.max([item.row_max for item in looks], axis=0),
        np.max([item.column_max for item in looks], axis=0),
    )
    bright_rows, bright_columns = np.nonzero(rows >= BAR_LUMA)[0], np.nonzero(columns >= BAR_LUMA)[0]
    if not len(bright_rows):
        return [0, 0, 0, 0]
    edges = [
        bright_rows[0],
        len(rows) - 1 - bright_rows[-1],
        bright_columns[0],
        len(columns) - 1 - bright_columns[-1],
    ]
    return [round(int(edge) * display_width_px / len(columns)) for edge in edges]


def screen_likelihood(looks: list[Look]) -> float:
    """How much the clip looks like a recorded screen, 0 to 1: flat areas with sharp edges."""
    flat, sharpness = (
        float(np.median([getattr(item, name) for item in looks])) for name in ("flat_share", "sharpness")
    )
    return float(np.clip((flat - 0.55) / 0.25, 0, 1) * np.clip(sharpness / 300, 0, 1))


def loop_likelihood(small: list[np.ndarray]) -> float:
    """How surely the clip repeats, 0 to 1: how near its last picture is to its first."""
    if len(small) < 4:
        return 0.0
    away = [cv2.norm(small[0], item, cv2.NORM_L1) / item.size for item in small[1:]]
    usual = float(np.percentile(away, 75))
    return float(np.clip(1 - away[-1] / usual, 0, 1)) if usual > 2 else 0.0


def measure(
    looks: list[Look],
    small: list[np.ndarray],
    small_times_s: list[float],
    changes: list[float],
    length_s: float,
    display_width_px: int,
) -> dict:
    """All measurements of a clip, as fields of the `clips` table.

    Args:
        looks: of its preview pictures, at least one.
        small: its small pictures, [h, w, 3] uint8, up to eight a second, and their times.
        changes: mean absolute difference (0..1) of each frame from the one before, over the clip's frames but
            the first.
        length_s: from the first to the last frame.
        display_width_px: width of the picture at full size, for the bars.
    """
    move = camera([cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in small], small_times_s)
    difference = np.array(changes)

    def mean(name: str) -> float:
        return float(np.mean([getattr(item, name) for item in looks]))

    frozen = float((difference < FROZEN).mean()) if len(difference) else 1.0
    return {
        "luma_mean": mean("luma_mean"),
        "luma_std": mean("luma_std"),
        "saturation": mean("saturation"),
        "sharpness": mean("sharpness"),
        "noise": mean("noise"),
        "black_share": float(
            np.mean([item.luma_mean < BLACK_LUMA and item.luma_std < PLAIN_STD for item in looks])
        ),
        "white_share": float(
            np.mean([item.luma_mean > WHITE_LUMA and item.luma_std < PLAIN_STD for item in looks])
        ),
        "frozen_share": frozen,
        "motion": float(difference.sum() / length_s) if length_s > 0 else 0.0,
        "camera": move.tag,
        "camera_confidence": round(move.confidence, 4),
        "pan_per_s": move.pan_per_s,
        "tilt_per_s": move.tilt_per_s,
        "zoom_per_s": move.zoom_per_s,
        "roll_deg_per_s": move.roll_deg_per_s,
        "shake": move.shake,
        "object_motion": move.object_motion,
        "loop_likelihood": loop_likelihood(small),
        "slideshow_likelihood": float(
            max(frozen, np.clip(1 - move.object_motion / STILL_MOTION, 0, 1) * move.confidence)
        )
        if length_s >= 1
        else 0.0,
        "screen_likelihood": screen_likelihood(looks),
        "bars_px": bars_px(looks, display_width_px),
        "palette": palette(looks),
    }
