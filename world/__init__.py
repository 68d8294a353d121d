"""World: a procedural film world with exact ground truth, for the demo, tests, training and evaluation.

Every film is a pure function of its seed. Beside each file stands a JSON with its captions and its truth
(shots, objects, motion, camera).
"""
