"""Images and videos together against videos alone: the same number of tokens of either.

python -m experiments.images_and_videos
"""

from collections.abc import Sequence

from experiments.arms import Arm
from experiments.asking import Outcome, Where
from experiments.report import Row, run

ARMS = (Arm("images and videos"), Arm("videos alone", stills=0.0))


def rows(found: Sequence[Outcome]) -> list[Row]:
    """Accuracy of images and of videos."""
    groups: dict[str, Where] = {
        "images": lambda case: case.is_still,
        "videos": lambda case: not case.is_still,
    }
    return [
        (f"{own.arm.name}, asked for {group}", own.all_right(where))
        for own in found
        for group, where in groups.items()
    ]


if __name__ == "__main__":
    run(
        "images-and-videos",
        "Images and videos together against videos alone",
        __doc__ or "",
        lambda budget: ARMS,
        rows,
    )
