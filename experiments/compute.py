"""1x, 4x and 16x compute: the same model and data, trained for a sixteenth of the steps, a quarter, all.

python -m experiments.compute
"""

from experiments.arms import Arm, Budget
from experiments.report import run


def arms(budget: Budget) -> list[Arm]:
    """Each arm has its own schedule of the learning rate."""
    return [Arm(f"{16 // share}x", steps=max(1, budget.steps // share)) for share in (16, 4, 1)]


if __name__ == "__main__":
    run("compute", "1x, 4x and 16x compute", __doc__ or "", arms)
