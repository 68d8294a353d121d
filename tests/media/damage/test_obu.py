"""Units of AV1, each given to the decoder by itself."""

from fractions import Fraction

import av
import numpy as np
import pytest

from media.damage.obu import apart
from media.decode.container import open_container
from media.decode.packets import video_stream
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.pipeline.curate.damage import FPS, grey, hurt, sound


def packet(data: bytes) -> av.Packet:
    made = av.Packet(data)
    made.pts, made.dts, made.time_base, made.is_keyframe = 7, 6, Fraction(1, 24), True
    return made


DELIMITER, FRAME = b"\x12\x00", b"\x32\x03abc"  # each with its size
LONG = b"\x32\x81\x01" + bytes(129)  # 129 bytes, said in two
LAYERED = b"\x36\x08\x02de"  # of a spatial layer: one byte more before the size
SIZELESS = b"\x30" + b"fghij"


def test_units_are_told_apart_and_keep_the_packets_time():
    parts = apart(packet(DELIMITER + FRAME + LONG + LAYERED + SIZELESS))
    assert [bytes(part) for part in parts] == [DELIMITER, FRAME, LONG, LAYERED, SIZELESS]
    for part in parts:
        assert (part.pts, part.dts, part.time_base, part.is_keyframe) == (7, 6, Fraction(1, 24), True)


@pytest.mark.parametrize("data", [FRAME, b"\x32\xff\xff", b"\x32" + b"\xff" * 20, b"\x00"])
def test_one_unit_and_sizes_that_cannot_be_stay_as_they_are(data):
    [part] = apart(packet(data))
    assert bytes(part) == data


def test_no_byte_is_lost_of_whatever_bytes_there_are():
    random = np.random.default_rng(0)
    for _ in range(300):
        data = random.integers(0, 256, random.integers(1, 60), dtype=np.uint8).tobytes()
        assert b"".join(bytes(part) for part in apart(packet(data))) == data


def test_decoders_have_one_thread_so_that_a_damaged_file_is_read_alike_on_every_machine(tmp_path):
    path = str(sound(tmp_path, "av1", 1))
    with open_container(path) as container:
        assert video_stream(container, path).codec_context.thread_count == 1


def test_more_of_a_damaged_file_is_whole_than_a_packet_at_a_time_gives(tmp_path):
    av.logging.set_level(av.logging.PANIC)
    whole = sound(tmp_path, "av1", 2)
    truth, plain_truth, found, plain = as_read(whole), grey(whole), 0, 0
    assert len(truth) == 120
    for number in range(4):
        path = hurt(whole, "flip", number)
        found += num_whole(as_read(path), truth)
        plain += num_whole(grey(path), plain_truth)
    assert found > plain


def num_whole(frames, truth):
    return sum(np.array_equal(frame, truth[place]) for place, frame in frames.items())


def as_read(path):
    found = {}
    try:
        for frame in VideoReader(probe(str(path)), decoder="pyav").frames():
            if not frame.is_damaged:
                found[round(frame.time_s * FPS)] = frame.rgb
    except MediaError as error:
        assert error.reason in {"lost_packets", "missing_frames"}
    return found
