"""3D positions against raster order.

The same model, data and steps: one knows the seconds, the row and the column of a token, the other its place
in the sequence alone.

    python -m experiments.positions
"""

from experiments.arms import Arm
from experiments.report import run

ARMS = (Arm("3D positions"), Arm("raster order", positions="raster"))

if __name__ == "__main__":
    run("positions", "3D positions against raster order", __doc__ or "", lambda budget: ARMS)
