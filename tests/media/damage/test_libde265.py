"""Flipped bits of HEVC are told packet by packet, and sound streams of every kind are not spoken of."""

import av
import numpy as np
import pytest

from media.damage import libde265
from media.damage.libde265 import Libde265
from media.errors import MediaError
from tests.pipeline.curate.damage import CODECS, hurt, sound

QUIET = "keyint=24:log-level=none:pools=1:frame-threads=1"


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return bytes(stream.codec_context.extradata or b""), [
            bytes(packet) for packet in container.demux(stream) if packet.size
        ]


def complaints(path):
    extradata, found = packets(path)
    witness = Libde265(extradata)
    return {place for place, packet in enumerate(found) if witness.complains(packet)}


@pytest.mark.parametrize("more", ["", ":wpp=0"], ids=["rows", "whole"])
@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_packets_whose_bits_are_wrong_are_told_and_no_others(tmp_path, monkeypatch, more, kind):
    monkeypatch.setitem(CODECS, "hevc", ("libx265", "mp4", {"x265-params": QUIET + more}))
    changed, told = 0, 0
    for seed in (1, 2):
        whole = sound(tmp_path, "hevc", seed)
        assert not complaints(whole)
        for number in range(2):
            path = hurt(whole, kind, number)
            pairs = zip(packets(whole)[1], packets(path)[1], strict=True)
            victims = {place for place, (before, after) in enumerate(pairs) if before != after}
            found = complaints(path)
            assert found <= victims
            changed, told = changed + len(victims), told + len(found)
    assert told >= 0.8 * changed


@pytest.mark.parametrize("pixels", ["yuv422p10le", "yuv444p", "yuv444p12le", "gray"])
@pytest.mark.parametrize("more", ["", ":temporal-layers=3", ":lossless=1", ":slices=2", ":interlace=tff"])
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_sound_streams_of_every_kind_are_not_spoken_of(tmp_path, pixels, more, suffix):
    path, draw = tmp_path / f"a.{suffix}", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", 24, options={"x265-params": QUIET + more})
        stream.width, stream.height, stream.pix_fmt = 160, 96, pixels
        for index in range(30):
            rgb = (
                np.roll(np.linspace(0, 255, 160, dtype=np.uint8), index)[None, :, None]
                .repeat(96, 0)
                .repeat(3, 2)
            )
            noisy = np.clip(rgb + draw.integers(-9, 10, rgb.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, "rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert not complaints(path)


def test_bytes_that_are_no_stream_end_nothing():
    draw = np.random.default_rng(1)
    for extradata in (None, b"", b"\1" * 40, draw.bytes(300), b"\1" + bytes(20) + b"\xff" * 60):
        witness = Libde265(extradata)
        for size in (0, 1, 5, 4000):
            witness.complains(draw.bytes(size))


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(libde265.metadata, "files", lambda name: [])
    monkeypatch.setattr(libde265.ctypes.util, "find_library", lambda name: "/nowhere/libde265.so")
    libde265._library.cache_clear()
    with pytest.raises(MediaError, match="pip install pi_heif"):
        Libde265(b"")
    libde265._library.cache_clear()


def test_damage_is_told_with_the_error_that_ends_it(monkeypatch):
    """A packet that is damaged, and of which memory runs out, is damaged; then nothing is said."""
    witness = Libde265(b"")
    monkeypatch.setattr(witness, "_said", lambda: {1017, 7})
    assert witness.complains(b"\0\0\1") and not witness.complains(b"\0\0\1")
