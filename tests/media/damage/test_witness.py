"""A stricter decoder gives the same pictures of sound files, and tells of damage that the other takes."""

import os
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from media.damage.witness import decoder_of
from media.decode.container.opening import open_container
from media.decode.container.packets import video_stream
from media.decode.probe import probe
from media.decode.reader import VideoReader
from tests.pipeline.curate.damage import FPS, hurt, sound

REAL = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))


def told(path: Path, strictly: bool) -> list:
    """Of each frame what a reader goes by, and its planes."""
    found = []
    with open_container(str(path)) as container:
        stream = video_stream(container, str(path))
        decoder = decoder_of(stream) if strictly else stream.codec_context
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                facts = (frame.pts, frame.time_base, frame.format.name)
                facts += (frame.color_trc, frame.colorspace, frame.color_range)
                found.append((*facts, frame.to_ndarray(format="rgb24").tobytes()))
    return found


def test_real_files_have_the_same_frames_from_both():
    if not REAL.is_dir():
        pytest.skip("RUSHES_REAL_VIDEOS names no folder")
    rows = [line.split("\t") for line in (REAL / "INDEX.tsv").read_text().splitlines()]
    paths = [REAL / row[0] for row in rows if "vp9" in row and (REAL / row[0]).exists()]
    assert len(paths) > 4
    for path in paths:
        if "alpha" in probe(str(path)).decoder_reasons:
            continue  # which FFmpeg's own leaves out
        ours, theirs = told(path, strictly=True), told(path, strictly=False)
        assert len(ours) == len(theirs) and ours[0][:6] == theirs[0][:6], path
        assert all(one == other for one, other in zip(ours, theirs, strict=True)), path
        with av.open(str(path)) as container:
            keys = [frame.key_frame for frame in container.decode(video=0)]
        pictures = VideoReader(probe(str(path)), decoder="pyav").pictures()
        assert [picture.signs.is_key for picture in pictures] == keys, path


@pytest.mark.parametrize(
    ("codec", "kind"),
    [("vp9", "flip"), ("vp9", "cut"), ("vp9", "drop"), ("av1", "flip"), ("mpeg4", "drop")],
)
def test_damaged_packets_give_no_wrong_frame(tmp_path, codec, kind):
    av.logging.set_level(av.logging.PANIC)
    whole = sound(tmp_path, codec, 1)
    truth = {
        round(frame.time_s * FPS): frame.rgb
        for frame in VideoReader(probe(str(whole)), decoder="pyav").frames()
    }
    assert len(truth) == 120
    for number in (0, 1):
        reader = VideoReader(probe(str(hurt(whole, kind, number))), decoder="pyav")
        seen = [frame for frame in _as_far_as_it_goes(reader) if not frame.is_damaged]
        for frame in seen:
            assert np.array_equal(frame.rgb, truth[round(frame.time_s * FPS)]), frame.time_s
        assert reader.has_losses or codec == "mpeg4", "which refuses nothing"
        assert 0 < len(seen) < 120


def _as_far_as_it_goes(reader):
    from media.errors import MediaError

    try:
        yield from reader.frames()
    except MediaError as error:
        assert error.reason in {"lost_packets", "missing_frames"}


@pytest.mark.parametrize("kind", ["yuv420p10le", "yuv420p12le", "yuv444p10le", "yuv422p", "yuv444p"])
def test_vp9_of_any_depth_is_read(tmp_path, kind):
    """libvpx as it is built here reads no more than eight bits."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg, whose libvpx writes more than eight bits")
    path = tmp_path / "deep.webm"
    grey = "nullsrc=s=96x64:r=24:d=0.5,geq=lum='16+16*N':cb=128:cr=128"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", grey, "-pix_fmt", kind]
    subprocess.run([*command, "-c:v", "libvpx-vp9", "-cpu-used", "8", str(path)], check=True)
    pictures = list(VideoReader(probe(str(path)), decoder="pyav").pictures())
    assert len(pictures) == 12 and not any(picture.signs.is_damaged for picture in pictures)
    levels = [float(picture.rgb(96, 64).mean()) for picture in pictures]
    assert np.allclose(levels, [min(255, 16 * index * 255 / 219) for index in range(12)], atol=4)
