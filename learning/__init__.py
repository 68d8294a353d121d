"""Learning: what trainings of one file of state share: joining processes, and saving and taking up a state exactly."""
