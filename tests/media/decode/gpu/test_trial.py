"""Frames of a GPU are given out only as far as they were seen to be the processor's.

Most tests put FFmpeg's own decoder in the GPU's place, which stores pixels as a GPU does and errs as told;
the last one asks a real GPU.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from media.apart import pool
from media.apart.reader import Reader, gpu_trouble
from media.decode.gpu import nvdec, trial
from media.decode.probe import probe
from media.decode.reader import VideoReader

STORED = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}


class StandIn:
    """A decoder that gives frames as a GPU stores them; of one of them a bit is wrong, or it fails there."""

    def __init__(self, own, wrong: int | None, fails: int | None, ends: int | None) -> None:
        self._own, self._wrong, self._fails, self._ends, self.count = own, wrong, fails, ends, 0

    def __getattr__(self, name: str):
        return getattr(self._own, name)

    def decode(self, packet) -> list[av.VideoFrame]:
        found = []
        for frame in self._own.decode(packet):
            made = frame.reformat(format=STORED[frame.format.name])
            if self.count == self._wrong:
                pixels = np.frombuffer(made.planes[0], np.uint8).copy()
                pixels[: pixels.size // 2] ^= 0x40
                made.planes[0].update(pixels)
            if self.count == self._fails:
                raise PermissionError(1, "no such luck")
            self.count += 1
            if self._ends is None or self.count <= self._ends:
                found.append(made)
        return found


@pytest.fixture
def gpu(monkeypatch):
    """Give this process a GPU that errs as told."""
    monkeypatch.setattr(trial, "_standings", type(trial._standings)(trial.Standing))
    monkeypatch.setattr(trial, "_untold", [])
    monkeypatch.setattr(nvdec.device, "trouble", "")
    monkeypatch.setattr(nvdec, "accelerator", lambda: None)
    used = []

    def errs(wrong: int | None = None, fails: int | None = None, ends: int | None = None) -> list[StandIn]:
        def made(stream):
            used.append(StandIn(stream.codec_context, wrong, fails, ends))
            return used[-1]

        monkeypatch.setattr(nvdec, "decoder_of", made)
        return used

    return errs


def film(path: Path, *options: str, frames: int = 40) -> Path:
    made = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=192x112:r=25"]
    subprocess.run([*made, "-frames:v", str(frames), *options, str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def h264(tmp_path_factory) -> Path:
    return film(
        tmp_path_factory.mktemp("films") / "a.mp4", "-c:v", "libx264", "-g", "10", "-pix_fmt", "yuv420p"
    )


def are_equal(frames: Iterator, others: Iterator) -> bool:
    return all(
        one is not None and other is not None and one.time_s == other.time_s and (one.rgb == other.rgb).all()
        for one, other in zip_longest(frames, others)
    )


X265 = ("a.mkv", "-c:v", "libx265", "-x265-params", "log-level=0", "-pix_fmt")
KINDS = {
    "h264": ("a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
    "h264 of full range": ("a.mp4", "-c:v", "libx264", "-pix_fmt", "yuvj420p", "-color_range", "pc"),
    "h264 of two fields": ("a.mp4", "-c:v", "libx264", "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p"),
    "hevc": (*X265, "yuv420p"),
    "hevc of ten bits": (
        "a.mkv",
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=0",
        "-pix_fmt",
        "yuv420p10le",
    ),
    "hdr": (
        *(*X265, "yuv420p10le"),
        *("-color_trc", "smpte2084", "-color_primaries", "bt2020", "-colorspace", "bt2020nc"),
    ),
    "vp8": ("a.webm", "-c:v", "libvpx"),
    "vp9": ("a.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_as_a_gpu_stores_them_give_the_same_pictures(tmp_path, gpu, kind):
    """Bit for bit, with the same range, colours, fields and times."""
    name, *options = KINDS[kind]
    facts = probe(str(film(tmp_path / name, *options)))
    used = gpu()
    reader = VideoReader(facts, decoder="nvdec")
    assert reader.decoder == "nvdec"
    by_gpu = list(reader._rising(reader._pyav(0, 9, True), 0, 9))
    by_processor = list(VideoReader(facts, decoder="pyav").frames())
    assert len(by_gpu) == 40
    assert used[0].count == 40
    for picture, frame in zip(by_gpu, by_processor, strict=True):
        assert (picture.rgb(192, 112) == frame.rgb).all()
        assert picture.time_s == frame.time_s
    assert are_equal(reader.frames(), iter(by_processor))
    assert trial.standing_of(facts) == trial.Standing(num_equal=40)


def test_what_is_not_defined_to_the_bit_or_odd_stays_with_the_processor(tmp_path, gpu):
    used = gpu()
    mpeg2 = probe(str(film(tmp_path / "a.mpg", "-c:v", "mpeg2video")))
    whole = probe(str(film(tmp_path / "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv444p")))
    small = probe(
        str(film(tmp_path / "b.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", "-vf", "scale=191:111"))
    )
    for facts in (mpeg2, whole, small):
        reader = VideoReader(facts, decoder="nvdec")
        assert len(list(reader.frames())) == 40
        assert reader.decoder == "pyav"
    assert not used


def test_a_wrong_frame_while_a_kind_is_on_trial_is_never_given_out(h264, gpu):
    """The processor's is, from there to the end, and in every later file of the kind."""
    facts = probe(str(h264))
    gpu(wrong=17)
    right = list(VideoReader(facts, decoder="pyav").frames())
    reader = VideoReader(facts, decoder="nvdec")
    assert are_equal(reader.frames(), iter(right))
    assert reader.decoder == "pyav"
    assert "a.mp4 otherwise: h264 of yuv420p is decoded by the processor" in trial.told()[0]
    assert trial.told() == []
    used = gpu()
    used.clear()
    assert are_equal(VideoReader(facts, decoder="nvdec").frames(), iter(right))
    assert not used


def on_trust(facts, monkeypatch) -> None:
    """The kind has passed its trial, and the file is none of those that are compared whole."""
    trial.standing_of(facts).num_equal = trial.PROOF_FRAMES
    monkeypatch.setattr(trial, "zlib", SimpleNamespace(crc32=lambda _: 1))


def test_a_kind_that_is_trusted_is_compared_in_its_first_frame(h264, gpu, monkeypatch):
    facts = probe(str(h264))
    right = list(VideoReader(facts, decoder="pyav").frames(0.4, 1.2))
    gpu(wrong=10)  # at 0.4 s, where reading begins
    on_trust(facts, monkeypatch)
    assert are_equal(VideoReader(facts, decoder="nvdec").frames(0.4, 1.2), iter(right))
    assert trial.standing_of(facts).refusal
    trial.standing_of(facts).refusal = ""
    gpu(wrong=30)  # which nobody looks at
    assert not are_equal(VideoReader(facts, decoder="nvdec").frames(0.4, 1.5), iter(right))
    assert not trial.standing_of(facts).refusal


def test_some_files_of_a_trusted_kind_are_compared_whole(h264, gpu, monkeypatch):
    facts = probe(str(h264))
    right = list(VideoReader(facts, decoder="pyav").frames())
    gpu(wrong=30)
    on_trust(facts, monkeypatch)
    monkeypatch.setattr(trial, "zlib", SimpleNamespace(crc32=lambda _: trial.ONE_OF))
    assert are_equal(VideoReader(facts, decoder="nvdec").frames(), iter(right))
    assert trial.standing_of(facts).refusal


@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize("fails", [0, 1, 23, 39])
def test_where_the_gpu_fails_the_processor_goes_on(h264, gpu, monkeypatch, fails, is_trusted):
    """No frame is lost or given twice; a kind with which it happens three times is left alone."""
    facts = probe(str(h264))
    right = list(VideoReader(facts, decoder="pyav").frames())
    gpu(fails=fails)
    for number in range(3):
        assert not trial.standing_of(facts).refusal
        if is_trusted:
            on_trust(facts, monkeypatch)
        reader = VideoReader(facts, decoder="nvdec")
        assert are_equal(reader.frames(), iter(right)), number
        assert reader.decoder == "pyav"
    assert "fails" in trial.standing_of(facts).refusal
    assert "no such luck" in trial.standing_of(facts).refusal


def test_a_gpu_that_gives_too_few_frames_on_trial_is_found_out(h264, gpu):
    facts = probe(str(h264))
    gpu(ends=35)
    assert are_equal(
        VideoReader(facts, decoder="nvdec").frames(), VideoReader(facts, decoder="pyav").frames()
    )
    assert trial.standing_of(facts) == trial.Standing(num_equal=35, num_troubles=1)


def test_without_a_gpu_the_processor_decodes_and_says_why_it_does(h264):
    """Also of a process apart, which is confined as ever."""
    if not (trouble := gpu_trouble()):
        pytest.skip("this machine has a GPU")
    assert "/dev/nvidia" in trouble or "Landlock" in trouble
    facts = probe(str(h264))
    reader = Reader(facts, decoder="nvdec")
    assert are_equal(reader.frames(), VideoReader(facts, decoder="pyav").frames())
    assert reader.decoder == "pyav"


def test_a_decoder_that_dies_on_a_gpu_costs_no_frame(h264, monkeypatch, capfd):
    """Whatever a driver does to it: another one goes on by the processor."""
    facts = probe(str(h264))
    right = list(VideoReader(facts, decoder="pyav").frames())
    reader = Reader(facts, decoder="nvdec")
    frames = reader.frames()
    begun = [next(frames)]
    (busy,) = [decoder for decoder in pool._pool._busy if decoder.on_gpu]
    busy._process.send_signal(11)
    assert are_equal(iter([*begun, *frames]), iter(right))
    assert "it held a GPU, the processor goes on" in capfd.readouterr().err
    assert reader.decoder == "pyav"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [*KINDS, "av1"])
def test_a_real_gpu_gives_the_processors_frames(tmp_path, kind):
    """Each kind, to the bit, by a decoder that is confined."""
    if trouble := gpu_trouble():
        pytest.skip(trouble)
    name, *options = {**KINDS, "av1": ("a.mkv", "-c:v", "libsvtav1", "-pix_fmt", "yuv420p")}[kind]
    facts = probe(str(film(tmp_path / name, *options, frames=200)))
    reader = Reader(facts, decoder="nvdec")
    by_gpu = list(reader.frames())
    assert reader.decoder == "nvdec", kind
    assert are_equal(iter(by_gpu), VideoReader(facts, decoder="pyav").frames())
