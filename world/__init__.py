"""World: a procedural film world with exact ground truth, for the demo, tests, training and evaluation.

Every film is a pure function of its seed. Beside each file stands a JSON with its captions and its truth
(shots, objects, motion, camera).
"""

from world.film import Film, make_film, render_film
from world.scene import Shot, sample_shot

__all__ = ["Film", "Shot", "make_film", "render_film", "sample_shot"]
