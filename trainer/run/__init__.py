"""The run itself: set-up, the training loop, the guard against bad steps."""
