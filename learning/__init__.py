"""Learning: what trainings share: starting and joining processes, ending well, saving and taking up a state
exactly, logs by step, an optimizer.
"""
