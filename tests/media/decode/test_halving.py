"""Small pictures of large frames: halved in between, they are those of one averaging, whatever the format."""

import io
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from media.decode.geometry import Geometry
from media.decode.halving import halved
from media.decode.images import encode_jpeg
from media.decode.picture import Picture


def frame_of(width, height, pixel_format="yuv420p", seed=0):
    """A picture with detail of all sizes, as a decoder gives it."""
    rng = np.random.default_rng(seed)
    rgb = np.zeros((height, width, 3), np.float32)
    for cells, colours in ((3, 3), (16, 1), (64, 1), (160, 1)):  # colours are coarse, as in footage
        noise = rng.normal(0, 30, (cells, cells, colours)).astype(np.float32)
        rgb += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)
    frame = av.VideoFrame.from_ndarray(np.clip(rgb + 128, 0, 255).astype(np.uint8), format="rgb24")
    return frame.reformat(format=pixel_format)


def psnr_db(a, b):
    return float(10 * np.log10(255**2 / max(1e-6, ((a.astype(float) - b) ** 2).mean())))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12"])
@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (854, 480), (1276, 718), (641, 359)])
def test_a_small_picture_of_a_large_frame_is_its_average_and_lies_where_it_lay(size, pixel_format):
    frame = frame_of(*size, pixel_format)
    picture = Picture(0.0, frame, Geometry(*size))
    whole = picture.rgb(*size)
    for side_px in (512, 224, 96):
        small = picture.draft(side_px)
        wanted = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert psnr_db(small, wanted) > 36, (side_px, psnr_db(small, wanted))
        for moved in (np.roll(wanted, 1, 0), np.roll(wanted, 1, 1), np.roll(wanted, -1, 1)):
            assert psnr_db(small, moved) < psnr_db(small, wanted) - 3


def test_a_frame_is_halved_while_almost_twice_what_is_wanted_is_left_and_keeps_its_colours():
    frame = frame_of(1920, 1080)
    frame.colorspace, frame.color_range = 1, 2
    sizes = [(halved(frame, side, side * 9 // 16).width) for side in (1000, 534, 533, 266, 100)]
    assert sizes == [1920, 1920, 960, 480, 480]  # 270 rows are halved no more, nor their chroma
    small = halved(frame, 240, 135)
    assert (small.colorspace, small.color_range) == (frame.colorspace, frame.color_range)
    assert halved(frame_of(1922, 1080), 100, 56).width == 1922  # an odd half has no half of its chroma
    assert abs(frame.to_ndarray().mean() - small.to_ndarray().mean()) < 0.5


def test_where_little_is_taken_off_fine_colours_stay():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (60, 106, 3), dtype=np.uint8)
    rgb = cv2.resize(colours, (641, 359), interpolation=cv2.INTER_CUBIC)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")
    picture = Picture(0.0, frame, Geometry(641, 359))
    small, whole = picture.draft(512), picture.rgb(641, 359)
    wanted = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert psnr_db(small, wanted) > 46


def test_a_frame_that_is_stored_from_the_bottom_up_is_not_halved():
    graph = av.filter.Graph()
    source = graph.add_buffer(width=1920, height=1080, format="yuv420p", time_base=Fraction(1, 25))
    flip, sink = graph.add("vflip"), graph.add("buffersink")
    source.link_to(flip), flip.link_to(sink)
    graph.configure()
    frame = frame_of(1920, 1080)
    graph.push(frame)
    flipped = graph.pull()
    assert min(plane.line_size for plane in flipped.planes) < 0
    small, wanted = (Picture(0.0, one, Geometry(1920, 1080)).draft(224) for one in (flipped, frame))
    assert psnr_db(small, wanted[::-1]) > 36


def test_a_jpeg_is_what_was_given_or_an_error():
    rgb = frame_of(320, 200).to_ndarray(format="rgb24")
    for given in (rgb, rgb[::-1], rgb[:, ::2], rgb[:1, :1]):
        with Image.open(io.BytesIO(encode_jpeg(given, 95))) as image:
            assert psnr_db(np.asarray(image), given) > 30
    with pytest.raises(OSError, match="65500"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))
