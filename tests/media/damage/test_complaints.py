"""What FFmpeg says only in its log."""

import contextlib

import av
import av.logging
import pytest

from media.damage.complaints import complaints
from media.damage.healing import QUIET, broken_from, is_whole
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.pipeline.curate.damage import hurt, sound


def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = tmp_path / "odd.mp4"
    path.write_bytes(sound(tmp_path, "h264", 1).read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"none \(zzzz") as raised:
        probe(str(path))
    assert raised.value.reason == "no_decoder"


def test_frames_of_a_packet_that_the_decoder_complains_of_are_damaged_up_to_the_next_keyframe(tmp_path):
    """And those of a keyframe that has arrived, but whose frame has not come yet, are none of them."""
    whole = sound(tmp_path, "h264", 2)
    pictures = list(VideoReader(probe(str(hurt(whole, "flip", 1))), decoder="pyav").pictures())
    marked = [picture.signs.is_damaged for picture in pictures]
    assert any(marked) and not all(marked)
    ends = [place for place in range(1, len(marked)) if marked[place - 1] and not marked[place]]
    alone = [place for place in ends if place == 1 or not marked[place - 2]]  # may be of a picture of no use
    assert ends and all(pictures[place].signs.is_key or place in alone for place in ends)
    assert not any(
        picture.signs.is_damaged for picture in VideoReader(probe(str(whole)), decoder="pyav").pictures()
    )


def test_a_picture_whose_last_blocks_never_came_is_damaged(tmp_path):
    """FFmpeg says that for information only, where a flipped bit ends a slice early."""
    whole, found = sound(tmp_path, "h264", 2), 0
    for number in range(12):
        path = hurt(whole, "flip", number)
        early = ended_early(path)
        marked = {
            picture.frame.pts: picture.signs.is_damaged
            for picture in VideoReader(probe(str(path)), decoder="pyav").pictures()
        }
        assert all(marked[pts] for pts in early if pts in marked), number
        found += len(early)
    assert found >= 2


def ended_early(path):
    """Times of the packets of which nothing but that is said."""
    av.logging.set_level(av.logging.INFO)
    early = set()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for packet in container.demux(video=0):
            with av.logging.Capture() as lines, contextlib.suppress(av.FFmpegError):
                packet.decode()
            if lines and all("concealing" in text for *_, text in lines):
                early.add(packet.pts)
    av.logging.set_level(av.logging.PANIC)
    return early


def test_what_was_said_of_another_file_is_not_said_again():
    """PyAV tells how often a line was repeated with the next one, whosever that is."""
    av.logging.log(av.logging.ERROR, "dav1d", "first")
    with complaints() as said:
        for _ in range(3):
            av.logging.log(av.logging.ERROR, "dav1d", "Error parsing OBU data")
    with complaints() as later:
        av.logging.log(av.logging.INFO, "vp9", "something else")
    assert said == ["Error parsing OBU data"] * 3 and later == []


def test_the_level_of_the_log_is_as_before():
    before = av.logging.get_level()
    with pytest.raises(KeyError), complaints():
        raise KeyError
    assert av.logging.get_level() == before


def test_what_a_keyframe_mends_was_broken_and_a_cut_was_not():
    import numpy as np

    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (72, 72, 3)).astype(np.uint8)
    broken = scene.copy()
    broken[10:30, 10:30] = 128
    assert broken_from([scene] * 5 + [broken] * 4, scene) == 5
    assert broken_from([scene] * 9, 255 - scene) is None  # a cut
    assert broken_from([scene] * 5 + [broken] * 4, broken) is None  # a thing that has come to stay


def test_whether_a_gap_was_a_pause_is_told_only_of_a_scene_that_hardly_moves():
    import numpy as np

    rng = np.random.default_rng(1)
    scene = rng.integers(0, 255, (72, 72, 3)).astype(np.uint8)
    other = rng.integers(0, 255, (72, 72, 3)).astype(np.uint8)
    assert is_whole([scene, scene], scene)
    assert not is_whole([scene, scene], other)
    assert is_whole([scene, other], scene)
    assert not is_whole([scene, other], scene, QUIET), "as much changes from frame to frame as a loss would"
