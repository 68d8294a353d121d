"""Dense captions against alt text: the same films, and dense prompts.

Users' prompts are made as dense before sampling (`rushes upsample`).

python -m experiments.captions
"""

from experiments.arms import Arm
from experiments.report import run

ARMS = (Arm("dense captions"), Arm("alt text", captions="alt"))

if __name__ == "__main__":
    run("captions", "Dense captions against alt text", __doc__ or "", lambda budget: ARMS)
