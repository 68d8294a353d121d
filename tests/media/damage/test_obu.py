"""Units of AV1, each given to the decoder by itself."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from media.damage.obu import apart
from media.decode.container.opening import open_container
from media.decode.container.packets import video_stream
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.pipeline.curate.damage import CODECS, FPS, grey, hurt, sound


def packet(data: bytes) -> av.Packet:
    made = av.Packet(data)
    made.pts, made.dts, made.time_base, made.is_keyframe = 7, 6, Fraction(1, 24), True
    return made


DELIMITER, FRAME = b"\x12\x00", b"\x32\x03abc"  # each with its size
LONG = b"\x32\x81\x01" + bytes(129)  # 129 bytes, said in two
LAYERED = b"\x36\x20\x02de"  # of a temporal layer: one byte more before the size
SIZELESS = b"\x30" + b"fghij"


def test_units_are_told_apart_and_keep_the_packets_time():
    parts = apart(packet(DELIMITER + FRAME + LONG + LAYERED + SIZELESS))
    assert [bytes(part) for part in parts] == [DELIMITER, FRAME, LONG, LAYERED, SIZELESS]
    for part in parts:
        assert (part.pts, part.dts, part.time_base, part.is_keyframe) == (7, 6, Fraction(1, 24), True)


PADDING = b"\x7a\x02\x00\x00"


def test_packets_stay_whole_where_a_copy_would_change_them():
    hidden = SimpleNamespace(size=7, is_discard=True)
    fine = b"\x36\x08\x02de"  # spatial_id 1
    for one in (hidden, packet(DELIMITER + FRAME + fine), packet(DELIMITER * 100)):
        assert apart(one) == [one]
    assert [bytes(part) for part in apart(packet(DELIMITER + PADDING * 3 + FRAME))] == [DELIMITER, FRAME]


@pytest.mark.parametrize("data", [FRAME, b"\x32\xff\xff", b"\x32" + b"\xff" * 20, b"\x00"])
def test_one_unit_and_sizes_that_cannot_be_stay_as_they_are(data):
    [part] = apart(packet(data))
    assert bytes(part) == data


def test_no_byte_is_lost_of_whatever_bytes_there_are():
    random = np.random.default_rng(0)
    for _ in range(300):
        data = random.integers(0, 120, random.integers(1, 60), dtype=np.uint8).tobytes()  # no padding
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


def test_a_raw_file_whose_first_keyframe_is_damaged_is_read_from_the_next(tmp_path):
    av.logging.set_level(av.logging.PANIC)
    path = sound(tmp_path, "av1", 2)
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[32:36], "little")
    for place in (200, 300, 400, 500):
        data[32 + 12 + place % size] ^= 0x10
    path.write_bytes(data)
    found = as_read(path)
    assert len(found) == 96 and min(found) == 24


@pytest.mark.parametrize("num_frames", [120, 20])
def test_an_encoder_that_does_not_keep_to_the_standard_is_read_all_the_same(tmp_path, num_frames):
    """Here the bits behind a sequence header are others than they must be; of one keyframe and of several."""
    path = sound(tmp_path, "av1", 2)
    whole = as_read(path)
    data, at, changed, left = path.read_bytes(), 32, bytearray(path.read_bytes()[:32]), num_frames
    while left:
        size = int.from_bytes(data[at : at + 4], "little")
        body = b"".join(
            unit[:-1] + bytes([unit[-1] ^ 1]) if unit[0] >> 3 & 15 == 1 else unit
            for unit in map(bytes, apart(packet(data[at + 12 : at + 12 + size])))
        )
        assert len(body) == size
        changed += data[at : at + 12] + body
        at, left = at + 12 + size, left - 1
    path.write_bytes(changed)
    assert "loose" in probe(str(path)).decoder_reasons
    found = as_read(path)
    assert len(found) == num_frames
    assert all(np.array_equal(frame, whole[place]) for place, frame in found.items())


def test_one_keyframe_that_is_damaged_is_no_encoders_way(tmp_path):
    path = sound(tmp_path, "av1", 2)
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[32:36], "little")
    for place in (200, 300, 400, 500):
        data[32 + 12 + place % size] ^= 0x10
    path.write_bytes(data[: 32 + 12 + size])
    with pytest.raises(MediaError, match="Invalid data"):
        probe(str(path))


def test_pictures_that_an_edit_list_cuts_away_stay_so(tmp_path, monkeypatch):
    """A copy of a packet would not know that it is not to be shown."""
    encoder, _, options = CODECS["av1"]
    monkeypatch.setitem(CODECS, "av1", (encoder, "mp4", options))
    plain, path = sound(tmp_path, "av1", 2), tmp_path / "cut.mp4"
    whole = as_read(plain)
    path.write_bytes(with_edit(plain.read_bytes(), start=1.25, seconds=1.0))
    seen = list(VideoReader(probe(str(path)), decoder="pyav").frames())
    assert len(whole) == 120 and len(seen) == 24
    for number, frame in enumerate(seen):
        assert np.array_equal(frame.rgb, whole[30 + number])


def with_edit(data: bytes, start: float, seconds: float) -> bytes:
    """An MP4 of one track of which an edit list shows a part: ISO/IEC 14496-12, section 8.6.6."""
    at = data.index(b"elst") - 4
    assert int.from_bytes(data[at : at + 4], "big") == 28 and data[at + 8] == 0
    movie = int.from_bytes(data[(own := data.index(b"mvhd") + 16) : own + 4], "big")
    media = int.from_bytes(data[(own := data.index(b"mdhd") + 16) : own + 4], "big")
    edit = round(seconds * movie).to_bytes(4, "big") + round(start * media).to_bytes(4, "big")
    return data[: at + 16] + edit + data[at + 24 :]


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
