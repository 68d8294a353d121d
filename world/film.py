"""Films: shots joined by cuts and fades in many sizes, rates and codecs, written with their truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from media.writer import write_video
from world import captions
from world.render import render_frame
from world.scene import Shot, sample_shot

SIZES_PX = [
    (160, 90),
    (128, 96),
    (96, 128),
    (90, 160),
    (112, 112),
    (192, 80),
    (131, 97),
    (144, 108),
    (108, 144),
    (176, 144),
]
RATES_FPS = [8.0, 12.0, 15.0, 24.0, 30000 / 1001]
CODECS = [("h264", "mp4"), ("h264", "mkv"), ("vp9", "webm"), ("hevc", "mp4"), ("av1", "mp4"), ("h264", "mp4")]
QUALITY = {
    "vp9": {"crf": "24"},
    "av1": {"crf": "26"},
}  # fine enough that the codec keeps what the captions speak of
STILLS = ["png", "jpg", "webp"]
FADE_S = 0.5
FORMAT = "rushes-world/1"


@dataclass(frozen=True)
class Film:
    """A film before it is drawn.

    `joins[i]` says how shot i + 1 follows shot i: cut or fade (a dissolve of half a second).
    """

    name: str
    seed: int
    width_px: int
    height_px: int
    fps: float
    codec: str
    suffix: str
    shots: list[Shot]
    joins: list[str]

    @property
    def is_still(self) -> bool:
        return self.fps == 0

    def shot_starts(self) -> list[int]:
        """First frame of each shot; a dissolve counts to the shot that comes in from its middle on."""
        starts = [0]
        for shot in self.shots[:-1]:
            starts.append(starts[-1] + max(2, round(shot.duration_s * self.fps)))
        return starts

    @property
    def num_frames(self) -> int:
        return (
            1
            if self.is_still
            else self.shot_starts()[-1] + max(2, round(self.shots[-1].duration_s * self.fps))
        )


def make_film(seed: int, index: int, is_still: bool = False, scale: float = 1.0) -> Film:
    """The film number `index` of a world. Shape, rate, codec and shots follow from (seed, index) alone."""
    rng = np.random.default_rng([seed, index, int(is_still)])
    width, height = (max(16, round(side * scale)) for side in SIZES_PX[int(rng.integers(len(SIZES_PX)))])
    if is_still:
        shot = sample_shot(int(rng.integers(1 << 31)), width / height, 0.0)
        return Film(
            f"still-{index:04d}", seed, width, height, 0.0, "image", STILLS[index % len(STILLS)], [shot], []
        )
    fps = RATES_FPS[int(rng.integers(len(RATES_FPS)))]
    codec, suffix = CODECS[int(rng.integers(len(CODECS)))]
    shots: list[Shot] = []
    joins: list[str] = []
    for number in range(int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))):
        duration = float(np.round(rng.uniform(1.2, 3.4), 2))
        shot = sample_shot(int(rng.integers(1 << 31)), width / height, duration)
        while (
            number and shot.background == shots[-1].background
        ):  # two takes of one set would be no visible cut
            shot = sample_shot(int(rng.integers(1 << 31)), width / height, duration)
        shots.append(shot)
        if number:
            joins.append("fade" if rng.random() < 0.25 else "cut")
    return Film(f"film-{index:04d}", seed, width, height, fps, codec, suffix, shots, joins)


def render_film(film: Film) -> Iterator[np.ndarray]:
    """The film's frames, [H, W, 3] uint8."""
    size = (film.width_px, film.height_px)
    if film.is_still:
        yield render_frame(film.shots[0], 0.0, *size)
        return
    starts = film.shot_starts()
    half = FADE_S * film.fps / 2
    for frame in range(film.num_frames):
        number = int(np.searchsorted(starts, frame, side="right")) - 1
        picture = render_frame(film.shots[number], (frame - starts[number]) / film.fps, *size)
        for join, (before, after) in enumerate(zip(range(len(starts)), range(1, len(starts)), strict=False)):
            away = frame - starts[after]
            if film.joins[join] != "fade" or abs(away + 0.5) > half:
                continue
            weight = (away + 0.5) / (2 * half) + 0.5  # share of the shot that comes in
            other = after if number == before else before
            second = render_frame(film.shots[other], (frame - starts[other]) / film.fps, *size)
            share = weight if other == after else 1 - weight
            picture = np.rint(picture * (1 - share) + second * share).astype(np.uint8)
        yield picture


def truth(film: Film) -> dict:
    """Captions with their times and all that was drawn, as JSON-able data."""
    starts = film.shot_starts() if not film.is_still else [0]
    ends = [*starts[1:], film.num_frames]
    rate = film.fps or 1.0
    timed = []
    for shot, start, end in zip(film.shots, starts, ends, strict=True):
        span = {"start_s": round(start / rate, 6), "end_s": round(end / rate, 6) if film.fps else 0.0}
        timed += [
            {**span, "kind": "short", "text": captions.short(shot)},
            {**span, "kind": "dense", "text": captions.dense(shot)},
            {**span, "kind": "structured", "text": json.dumps(captions.structured(shot), sort_keys=True)},
        ]
    return {
        "format": FORMAT,
        "alt": captions.alt(film.shots, film.shots[0].seed),
        "licence": "CC0-1.0",
        "captions": timed,
        "truth": {
            "seed": film.seed,
            "fps": film.fps,
            "width_px": film.width_px,
            "height_px": film.height_px,
            "num_frames": film.num_frames,
            "codec": film.codec,
            "shots": [
                {"start_frame": start, "end_frame": end, **asdict(shot)}
                for shot, start, end in zip(film.shots, starts, ends, strict=True)
            ],
            "joins": [
                {"frame": start, "kind": kind, "length_s": FADE_S if kind == "fade" else 0.0}
                for start, kind in zip(starts[1:], film.joins, strict=True)
            ],
        },
    }


def write_film(film: Film, folder: Path) -> Path:
    """Render and write a film and its JSON. Returns the media file's path."""
    path = folder / f"{film.name}.{film.suffix}"
    if film.is_still:
        Image.fromarray(next(render_film(film))).save(path, quality=92)
    else:
        write_video(path, render_film(film), film.fps, film.codec, options=QUALITY.get(film.codec))
    (folder / f"{film.name}.json").write_text(json.dumps(truth(film), indent=1))
    return path
