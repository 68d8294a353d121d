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
