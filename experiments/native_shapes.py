"""Native shapes against square crops: the same films whole, or the middle square of each.

Captions tell of the whole film in both, as they do where a training crops what it reads. Told apart: square
canvases, other shapes that the first trained on, and shapes that neither saw. `cut off`
is the share of samples whose main subject the border cuts off.

    python -m experiments.native_shapes
"""

from collections.abc import Sequence

from experiments.arms import Arm
from experiments.asking import Outcome, Where
from experiments.report import Row, run
from trainer.judging.cases import Case

ARMS = (Arm("native shapes"), Arm("square crops", is_cropped=True))


def is_square(case: Case) -> bool:
    """Whether a canvas is as wide as high."""
    return case.canvas.width_px == case.canvas.height_px


GROUPS: dict[str, Where] = {
    "square": is_square,
    "seen shapes": lambda case: case.is_seen and not is_square(case),
    "unseen shapes": lambda case: not case.is_seen and not is_square(case),
}


def rows(found: Sequence[Outcome]) -> list[Row]:
    """Framing and accuracy by the shape of the canvas, and the framing of true films."""
    return [
        (
            f"{own.arm.name}, {group}",
            {
                "cut off": own.cut_off(where),
                "cut off, true films": own.cut_off_truly(where),
                **own.all_right(where),
            },
        )
        for own in found
        for group, where in GROUPS.items()
    ]


if __name__ == "__main__":
    run("native-shapes", "Native shapes against square crops", __doc__ or "", lambda budget: ARMS, rows)
