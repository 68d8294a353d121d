"""Tone mapping against FFmpeg's own (zscale and tonemap), and that it keeps hues."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from media.decode.color import tone_map
from media.decode.probe import probe
from media.decode.reader import VideoReader

REAL = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
SIZE_PX = 320, 180


def pq(nits):
    """SMPTE ST 2084: the code of a luminance."""
    power = np.power(np.asarray(nits) / 10000, 0.1593017578125)
    return np.power((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power), 78.84375)


def linear(rgb):
    code = np.asarray(rgb) / 255
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("nits", [20, 203, 600, 4000])
def test_a_saturated_colour_keeps_its_hue_however_bright(nits):
    """An orange inside BT.709, as BT.2020 sees it."""
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    orange = np.array([1.0, 0.5, 0.2])
    seen = linear(tone_map(pq(to_2020 @ orange * nits)[None, None].astype(np.float32), "pq")[0, 0])
    assert seen / seen.max() == pytest.approx(orange, abs=0.02)


def by_ffmpeg(path, transfer):
    width, height = SIZE_PX
    steps = (
        f"scale={width}:{height}:flags=area,"
        f"zscale=tin={transfer}:min=bt2020nc:pin=bt2020:rin=tv:t=linear:npl=203,format=gbrpf32le,"
        "zscale=p=bt709,tonemap=reinhard:desat=0,zscale=t=iec61966-2-1:m=bt709:r=pc,format=rgb24"
    )
    command = ["ffmpeg", "-v", "error", "-noautorotate", "-i", str(path), "-vframes", "1", "-vf", steps]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this ffmpeg cannot: {done.stderr.decode()[-100:]}")
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "transfer"),
    [
        ("am_hdr10-av1.mp4", "smpte2084"),
        ("am_dolbyVision-hdr.MOV", "arib-std-b67"),
        ("am_hlg10-color-test.mp4", "arib-std-b67"),
        ("tagged_pq_bt2020.mp4", "smpte2084"),
    ],
)
def test_real_files_have_the_colours_that_ffmpeg_maps(name, transfer):
    """Shares of red, green and blue, away from black, are nearly the same; the curves differ on purpose."""
    if not REAL.is_dir() or not shutil.which("ffmpeg"):
        pytest.skip("RUSHES_REAL_VIDEOS names no folder, or there is no ffmpeg")
    path = next(REAL.rglob(name))
    picture = next(VideoReader(probe(str(path)), decoder="pyav").pictures())
    own = picture.rgb(*SIZE_PX).reshape(-1, 3).astype(float)
    other = by_ffmpeg(path, transfer).reshape(-1, 3).astype(float)
    lit = (own.sum(1) > 60) & (other.sum(1) > 60)
    shares = [rgb[lit] / rgb[lit].sum(1, keepdims=True) for rgb in (own, other)]
    assert np.abs(shares[0] - shares[1]).mean() < 0.02
    assert np.abs((shares[0] - shares[1]).mean(0)).max() < 0.005
