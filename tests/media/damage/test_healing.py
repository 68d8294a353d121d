"""A part that breaks in one frame and is mended by the next keyframe is damage; what comes back by itself is
none."""

import subprocess

import numpy as np
import pytest

from media.damage.healing import broken_from
from pipeline.config import CurateConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.footage.found import Found
from pipeline.footage.sources import source_row
from pipeline.plan import segments_of
from tests.ffmpeg import ffmpeg

SIDE, FRAMES = 48, 24


def glances(changed):
    """[FRAMES] pictures, of which a square is white in those that are named."""
    found = [np.full((SIDE, SIDE, 3), 60, np.uint8) for _ in range(FRAMES)]
    for place in changed:
        found[place][12:24, 12:24] = 250
    return found


AFTER = glances(())[0]


def test_what_breaks_once_and_is_mended_is_broken():
    assert broken_from(glances(range(15, FRAMES)), AFTER) == 15
    assert broken_from(glances(range(1, FRAMES)), AFTER) == 1
    assert broken_from(glances(()), AFTER) is None


@pytest.mark.parametrize("period", [4, 6, 10])
def test_what_comes_back_by_itself_is_none(period):
    """A lamp that blinks: it is dark at the keyframe, and was before, with none between."""
    blinking = [place for place in range(FRAMES) if (FRAMES - 1 - place) // period % 2 == 0]
    assert FRAMES - 1 in blinking
    assert broken_from(glances(blinking), AFTER) is None


def test_what_looks_as_before_the_last_keyframe_is_a_state_of_the_scene():
    late = glances(range(15, FRAMES))
    assert broken_from(late, AFTER, late[-1]) is None
    assert broken_from(late, AFTER, AFTER) == 15


@pytest.mark.parametrize(
    ("rate", "group", "when"),
    [(30, 60, "lt(mod(t,1),0.5)"), (25, 50, "lt(mod(t,1),0.5)"), (30, 30, "lt(mod(t+0.5,1),0.5)")],
)
def test_few_frames_of_a_sound_film_with_a_lamp_are_withheld(tmp_path, rate, group, when):
    path = tmp_path / "a.mp4"
    lamp = f"drawbox=x=20:y=20:w=60:h=60:color=red:t=fill:enable='{when}'"
    source = ["-f", "lavfi", "-i", f"color=c=gray:s=320x180:r={rate}:d=8", "-vf", lamp]
    subprocess.run(
        [ffmpeg(), "-v", "error", "-y", *source, "-c:v", "libx264", "-g", str(group), str(path)], check=True
    )
    row = source_row(Found(str(path)))
    config = CurateConfig()
    found = [piece for segment in segments_of(row, 600) for piece in pieces(segment, row, config)]
    withheld = sum(piece.num_frames for piece in found if isinstance(piece, Gap))
    kept = sum(len(clip.samples) for clip in found if not isinstance(clip, Gap))
    assert kept + withheld == row["num_packets"] == 8 * rate
    # where it blinks as often as there are keyframes, the first group has none before it
    assert withheld <= (group // 2 if group == rate else 0)


def test_a_group_that_begins_again_is_repeated_and_a_still_one_that_breaks_is_not():
    """A box that goes on and uncovers what stays: looped, the keyframe brings the box back."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-2, 3, (2 * FRAMES, SIDE, SIDE, 3))

    def film(is_moving):
        found = [np.full((SIDE, SIDE, 3), 60, int) + own for own in noise[:FRAMES]]
        for place, picture in enumerate(found):
            left = min(32, 4 * place) if is_moving else 0
            picture[4:12, left : left + 8] = 200
            if is_moving:
                picture[40:44] = 60 + 60 * (place % 2)  # something that always moves
            elif place >= 9:
                picture[4:12, 0:8] = 60  # a part breaks
        return [picture.clip(0, 255).astype(np.uint8) for picture in found]

    for is_moving, first in ((True, None), (False, 9)):
        group = film(is_moving)
        again = (group[0].astype(int) + noise[FRAMES]).clip(0, 255).astype(np.uint8)
        assert broken_from(group, again) == first, is_moving


def test_no_frame_of_a_loop_is_withheld(tmp_path):
    once, loop = tmp_path / "once.mp4", tmp_path / "loop.mp4"
    encode = ["-c:v", "libx264", "-g", "250"]
    source = ["-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=2"]
    subprocess.run([ffmpeg(), "-v", "error", *source, *encode, str(once)], check=True)
    again = ["-stream_loop", "2", "-i", str(once), "-c", "copy"]
    subprocess.run([ffmpeg(), "-v", "error", *again, str(loop)], check=True)
    source = source_row(Found(str(loop)))
    (segment,) = segments_of(source, 600.0)
    found = list(pieces(segment, source, CurateConfig()))
    assert not any(isinstance(item, Gap) for item in found)
    assert sum(len(item.samples) for item in found) == 150
