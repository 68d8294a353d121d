"""Files damaged on purpose, beside the sound ones they were made of: bits flipped, packets dropped or cut."""

from __future__ import annotations

import contextlib
import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.threads import ordinary_threads
from world.render import render_frame
from world.scene import sample_shot

FPS, NUM_FRAMES, SIZE_PX, LEAST_DB = 24, 120, (256, 144), 30.0
CODECS = {
    "h264": ("libx264", "mp4", {"g": "24", "bf": "2", "threads": "1"}),
    "hevc": ("libx265", "mp4", {"x265-params": "keyint=24:log-level=none:pools=1:frame-threads=1"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "24", "deadline": "realtime", "cpu-used": "6", "threads": "1"}),
    "av1": ("libsvtav1", "ivf", {"g": "24", "preset": "10", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", "mp4", {"g": "24", "bf": "2", "b": "800000", "threads": "1"}),
    "mpeg2": ("mpeg2video", "ts", {"g": "12", "b": "2000000", "threads": "1"}),
}
"""Each by one thread: with more an encoder writes other bytes on another machine."""
VICTIMS = {"flip": 3, "drop": 2, "cut": 2}


def sound(folder: Path, codec: str, seed: int, size_px: tuple[int, int] = SIZE_PX) -> Path:
    """A film of five seconds with camera noise, in one codec, a keyframe a second."""
    encoder, suffix, options = CODECS[codec]
    path, shot = folder / f"{codec}-{seed}.{suffix}", sample_shot(seed, 16 / 9, 5.0)
    noise = np.random.default_rng(seed)
    with ordinary_threads(), av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, FPS, options=options)
        (stream.width, stream.height), stream.pix_fmt = size_px, "yuv420p"
        for index in range(NUM_FRAMES):
            rgb = render_frame(shot, index / FPS, *size_px).astype(int)
            rgb = np.clip(rgb + noise.integers(-6, 7, rgb.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(path: Path) -> dict[int, np.ndarray]:
    """Frames [h, w] of a file by their number, as far as FFmpeg decodes them."""
    found = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(video=0):
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    number = round(float(frame.pts * frame.time_base) * FPS)
                    found[number] = frame.to_ndarray(format="gray").astype(np.float32)
    return found


def read(path: Path) -> dict[int, np.ndarray]:
    """Frames [h, w, 3] of a file by their number, as far as our own reader gives them."""
    found = {}
    with contextlib.suppress(MediaError):
        facts = probe(str(path))
        for frame in VideoReader(facts, decoder="pyav").frames():
            found[round((frame.time_s + facts.start_s) * FPS)] = frame.rgb.astype(np.float32)
    return found


def error_of(number: int, picture: np.ndarray, truth: dict[int, np.ndarray]) -> float:
    """Mean squared error of a frame against the sound file's of that number."""
    return float(((picture - truth[number]) ** 2).mean()) if number in truth else 1e9


def is_bad(error: float) -> bool:
    """Under 30 dB."""
    return bool(10 * np.log10(255**2 / max(error, 1e-9)) < LEAST_DB)


def hurt(path: Path, kind: str, seed: int) -> Path:
    """A copy of which some packets, never the first, have flipped bits, are cut to a third, or are gone."""
    target = path.with_name(f"{path.stem}-{kind}{seed}{path.suffix}")
    rng = random.Random(f"{path.name}{kind}{seed}")
    if path.suffix == ".ivf":
        _hurt_ivf(path, target, kind, rng)
        return target
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        victims = _victims(len(packets), kind, rng)
        for index, packet in enumerate(packets):
            if index in victims and kind == "drop":
                continue
            copy = av.Packet(_changed(bytes(packet), kind, rng) if index in victims else bytes(packet))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            container.mux(copy)
    return target


def _victims(count: int, kind: str, rng: random.Random) -> set[int]:
    return set(rng.sample(range(1, count), VICTIMS[kind]))


def _changed(data: bytes, kind: str, rng: random.Random) -> bytes:
    if kind == "cut":
        return data[: max(8, len(data) // 3)]
    found = bytearray(data)
    for _ in range(4):
        found[rng.randrange(min(len(found) - 1, 12), len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _hurt_ivf(path: Path, target: Path, kind: str, rng: random.Random) -> None:
    data, at, frames = path.read_bytes(), 32, []
    while at < len(data):
        size, time = struct.unpack_from("<IQ", data, at)
        frames.append((time, data[at + 12 : at + 12 + size]))
        at += 12 + size
    victims = _victims(len(frames), kind, rng)
    kept = [
        (time, _changed(body, kind, rng) if index in victims else body)
        for index, (time, body) in enumerate(frames)
        if not (index in victims and kind == "drop")
    ]
    target.write_bytes(
        data[:32] + b"".join(struct.pack("<IQ", len(body), time) + body for time, body in kept)
    )
