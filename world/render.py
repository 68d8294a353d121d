"""Rendering: a shot at any size and time, anti-aliased, lit and textured, with numpy alone.

Objects are signed distance fields: negative inside, in frame heights. A pixel's coverage is the distance over
the pixel's own size, so edges are smooth at every resolution.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from world.scene import BACKGROUNDS, COLORS, LIGHTS, MOTIONS, SIZES, Shot, Thing

Array = np.ndarray
_SUN = np.array([-0.45, -0.6, 0.66], dtype=np.float32)  # towards the light; y points down


def camera_pose(shot: Shot, time_s: float) -> tuple[float, float, float]:
    """Centre (x, y) and zoom of the camera at `time_s`; the pose at mid shot is (0, 0, 1)."""
    offset = (time_s - shot.duration_s / 2) * shot.camera_speed
    moves = {"pan_right": (1, 0), "pan_left": (-1, 0), "tilt_down": (0, 1), "tilt_up": (0, -1)}
    if shot.camera in moves:
        dx, dy = moves[shot.camera]
        return dx * offset, dy * offset, 1.0
    if shot.camera in {"zoom_in", "zoom_out"}:
        return 0.0, 0.0, float(np.exp((1.0 if shot.camera == "zoom_in" else -1.0) * offset))
    if shot.camera == "handheld":
        phase = shot.seed % 97
        sway = [np.sin(2 * np.pi * rate * time_s + phase * rate) for rate in (0.9, 1.7, 1.3, 2.1)]
        return 0.012 * float(sway[0] + 0.5 * sway[1]), 0.012 * float(sway[2] + 0.5 * sway[3]), 1.0
    return 0.0, 0.0, 1.0


def _noise(x: Array, y: Array, seed: int, scale: float) -> Array:
    """Smooth texture fixed to world coordinates: a few sines in seeded directions, about -1..1."""
    rng = np.random.default_rng(seed)
    total = np.zeros_like(x)
    for octave in range(4):
        angle, phase = (float(value) for value in rng.uniform(0, 2 * np.pi, 2))
        frequency = scale * 1.7**octave
        total += np.sin(x * (frequency * math.cos(angle)) + y * (frequency * math.sin(angle)) + phase) / (
            1 + octave
        )
    return total / 2.0


def _background(shot: Shot, x: Array, y: Array, pixel: float) -> Array:
    top, bottom = (np.array(color, np.float32) / 255 for color in BACKGROUNDS[shot.background])
    horizon = 0.08

    def soft(value: Array, width: float = 0.0) -> Array:
        return np.clip(value / max(width, 1.5 * pixel) + 0.5, 0, 1)[..., None]

    if shot.background == "brick wall":
        row = np.floor(y / 0.09)
        u = x / 0.2 + 0.5 * (row % 2)
        tone = (np.sin(np.floor(u) * 12.9 + row * 78.2 + shot.seed % 31) * 0.5 + 0.5)[..., None]
        mortar = np.minimum(np.abs(u - np.round(u)) * 0.2, np.abs(y / 0.09 - np.round(y / 0.09)) * 0.09)
        return (bottom + (top - bottom) * tone) * (1 - 0.45 * soft(0.008 - mortar)) + 0.1 * soft(
            0.008 - mortar
        )
    if shot.background == "night sky":
        sky = top + (bottom - top) * np.clip(y + 0.5, 0, 1)[..., None]
        cell_x, cell_y = np.floor(x / 0.12), np.floor(y / 0.12)
        random = np.modf(np.abs(np.sin(cell_x * 127.1 + cell_y * 311.7 + shot.seed % 53) * 43758.5))[0]
        dx, dy = (
            x / 0.12 - cell_x - 0.25 - 0.5 * random,
            y / 0.12 - cell_y - 0.3 - 0.4 * np.modf(random * 7)[0],
        )
        star = soft(0.012 + 0.01 * random - 0.12 * np.hypot(dx, dy)) * (random > 0.35)[..., None]
        return sky + star * (0.75 - sky * 0.3)
    ground = soft(y - horizon, 0.02)
    texture = _noise(x, y * (1.9 if shot.background in {"sea", "desert"} else 1.3), shot.seed, 9.0)[..., None]
    sky = (
        top + 0.13 * _noise(x, y * 1.3, shot.seed + 1, 5.0)[..., None]
    )  # clouds, so that a camera's move shows there too
    floor = bottom * (1 + 0.36 * texture)
    if shot.background == "studio":
        tiles = soft(
            np.minimum(np.abs(x / 0.25 - np.round(x / 0.25)), np.abs(y / 0.12 - np.round(y / 0.12))) * 0.2
            - 0.006
        )
        floor = bottom * (0.78 + 0.22 * tiles) * (1 + 0.12 * texture)
    return sky * (1 - ground) + floor * ground


def _distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """Signed distance to the outline of a shape of about `radius`, centred at the origin."""
    if shape == "ball":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72 * radius) - 0.26 * radius
    if shape == "box":
        qx, qy = np.abs(x) - 0.82 * radius, np.abs(y) - 0.82 * radius
        return (
            np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 0.04 * radius
        )
    if shape == "triangle":
        return np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - 0.5 * radius  # apex towards -y
    angle = np.arctan2(x, -y)
    wedge = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    reach = np.hypot(x, y)
    px, py = reach * np.sin(wedge), reach * np.cos(wedge)
    across, along = (
        0.47 * math.sin(math.pi / 5),
        0.47 * math.cos(math.pi / 5) - 1.0,
    )  # from a tip to the inner corner beside it, in radii
    length = math.hypot(across, along)
    return px * (-along / length) + (py - radius) * (across / length)


def _draw(
    canvas: Array, thing: Thing, shot: Shot, x: Array, y: Array, time_s: float, pixel: float, aspect: float
) -> Array:
    dx, dy = MOTIONS[thing.motion]
    since = time_s - shot.duration_s / 2
    radius = SIZES[thing.size] * aspect**0.5
    # objects ride with the camera's slow moves, so that their motion on screen is the one they are named for
    cx, cy, zoom = camera_pose(shot, time_s) if shot.camera != "handheld" else (0.0, 0.0, 1.0)
    at_x, at_y = (
        cx + (thing.x + dx * thing.speed * since) / zoom,
        cy + (thing.y + dy * thing.speed * since) / zoom,
    )
    reach = 1.25 * radius + 0.15  # corner and shadow: beyond it nothing of the picture changes
    rows, columns = _within(y[:, 0], at_y, reach), _within(x[0], at_x, reach)
    whole, canvas, x, y = canvas, canvas[rows, columns], x[rows, columns], y[rows, columns]
    if not canvas.size:
        return whole
    px, py = x - at_x, y - at_y
    angle = thing.angle + thing.turn * since
    qx, qy = px * math.cos(angle) + py * math.sin(angle), -px * math.sin(angle) + py * math.cos(angle)
    shadow = _distance(thing.shape, qx - 0.03, qy - 0.05, radius)
    canvas = canvas * (1 - 0.35 * np.clip(0.5 - shadow / 0.06, 0, 1)[..., None])
    distance = _distance(thing.shape, qx, qy, radius)
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    color = np.array(COLORS[thing.color], np.float32) / 255
    paint = np.ones_like(x)
    if thing.texture == "striped":
        paint = 0.82 + 0.3 * np.clip(np.sin(qx / radius * 7.5) * radius / (7.5 * pixel) * 2, -1, 1) * 0.6
    elif thing.texture == "dotted":
        u, v = qx / (0.42 * radius), qy / (0.42 * radius)
        dots = 0.27 - np.hypot(u - np.round(u), v - np.round(v))
        paint = 1.05 - 0.42 * np.clip(dots * 0.42 * radius / pixel + 0.5, 0, 1)
    if thing.shape == "ball":
        nx, ny = px / radius, py / radius
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        lambert = np.clip(nx * _SUN[0] + ny * _SUN[1] + nz * _SUN[2], 0, 1)
        shade, gloss = 0.5 + 0.62 * lambert, np.clip(lambert, 0, 1) ** 24 * 0.45
    else:
        rim = np.clip(-distance / (0.16 * radius), 0, 1)
        shade, gloss = (0.86 - 0.5 * py / radius * 0.3) * (0.78 + 0.26 * rim), np.zeros_like(x)
    lit = color * (paint * shade)[..., None] + gloss[..., None]
    drawn = canvas * (1 - cover) + lit * cover
    whole[rows, columns] = drawn
    return whole


def _within(values: Array, middle: float, reach: float) -> slice:
    """Of rising values, those within reach."""
    return slice(
        int(np.searchsorted(values, middle - reach)), int(np.searchsorted(values, middle + reach, "right"))
    )


@functools.lru_cache(maxsize=64)
def _title_mask(text: str, width: int, height: int) -> Array:
    image = Image.new("L", (width, height))
    size = max(8, round(min(height * 0.13, width / (0.68 * len(text)))))
    font = ImageFont.load_default(size)
    box = ImageDraw.Draw(image).textbbox((0, 0), text, font=font)
    ImageDraw.Draw(image).text(((width - box[2]) / 2, height * 0.82 - box[3] / 2), text, fill=255, font=font)
    return np.asarray(image, np.float32)[..., None] / 255


def render_frame(shot: Shot, time_s: float, width: int, height: int) -> Array:
    """The picture of `shot` at `time_s`.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    cx, cy, zoom = camera_pose(shot, time_s)
    pixel = 1.0 / height / zoom
    xs = ((np.arange(width, dtype=np.float32) + 0.5) / height - 0.5 * width / height) / zoom + cx
    ys = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5) / zoom + cy
    x, y = np.meshgrid(xs, ys)
    canvas = _background(shot, x, y, pixel).astype(np.float32)
    for thing in shot.things:
        canvas = _draw(canvas, thing, shot, x, y, time_s, pixel, width / height)
    canvas = canvas * np.array(LIGHTS[shot.light], np.float32)
    if shot.title:
        mask = _title_mask(shot.title, width, height)
        canvas = canvas * (1 - mask) + mask * 0.95
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
