"""The claims that this design rests on, as experiments: a script each that prints a table and a plot.

What they found: docs/experiments.md.
"""
