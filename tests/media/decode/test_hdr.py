"""Tone mapping against FFmpeg's own (zscale and tonemap) and BT.2390's (libplacebo); it keeps hues."""

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


def by_bt2390(path):
    """ITU-R BT.2390's curve, as libplacebo applies it, without a look at what lies in the picture."""
    width, height = SIZE_PX
    steps = (
        f"scale={width}:{height}:flags=area,format=yuv420p10le,hwupload,libplacebo=tonemapping=bt.2390:"
        "peak_detect=false:apply_dolbyvision=false:colorspace=bt709:color_primaries=bt709:"
        "color_trc=iec61966-2-1:range=pc:format=rgba,"
        "hwdownload,format=rgba"
    )
    device = ["-init_hw_device", "vulkan=vk:0", "-filter_hw_device", "vk", "-noautorotate"]
    command = ["ffmpeg", "-v", "error", *device, "-i", str(path), "-vframes", "1", "-vf", steps]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip(f"this ffmpeg has no libplacebo or Vulkan: {done.stderr.decode()[-100:]}")
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 4)[..., :3]


def lab(rgb):
    """CIE L*a*b* of sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    share = linear(rgb) @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.moveaxis(np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def first_picture(name):
    if not REAL.is_dir() or not shutil.which("ffmpeg"):
        pytest.skip("RUSHES_REAL_VIDEOS names no folder, or there is no ffmpeg")
    path = next(REAL.rglob(name))
    picture = next(VideoReader(probe(str(path)), decoder="pyav").pictures())
    return path, picture.geometry, picture.rgb(*picture.geometry.stored_orientation(*SIZE_PX))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["am_hdr10-av1.mp4", "am_dolbyVision-hdr.MOV", "am_hlg10-color-test.mp4"])
def test_real_files_look_as_bt2390_has_them(name):
    """Hues are the same within three degrees; lightness, whose curve differs on purpose, within ten."""
    path, geometry, own = first_picture(name)
    own, other = lab(own), lab(geometry.upright(by_bt2390(path)))
    chroma = np.hypot(other[..., 1], other[..., 2]) > 10
    turned = np.arctan2(own[..., 2], own[..., 1]) - np.arctan2(other[..., 2], other[..., 1])
    turned = np.degrees(np.abs((turned + np.pi) % (2 * np.pi) - np.pi))[chroma]
    lighter = (own - other)[..., 0]
    apart = np.sqrt(((own - other) ** 2).sum(-1))
    print(
        f"{name}: hue {np.median(turned):.1f} degrees, lightness {lighter.mean():+.1f}, "
        f"difference {apart.mean():.1f} (95 %: {np.percentile(apart, 95):.1f})"
    )
    assert np.median(turned) < 3
    assert abs(lighter.mean()) < 10


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
    path, geometry, own = first_picture(name)
    own = own.reshape(-1, 3).astype(float)
    other = geometry.upright(by_ffmpeg(path, transfer)).reshape(-1, 3).astype(float)
    lit = (own.sum(1) > 60) & (other.sum(1) > 60)
    shares = [rgb[lit] / rgb[lit].sum(1, keepdims=True) for rgb in (own, other)]
    assert np.abs(shares[0] - shares[1]).mean() < 0.02
    assert np.abs((shares[0] - shares[1]).mean(0)).max() < 0.005
