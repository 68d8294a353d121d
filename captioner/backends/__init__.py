"""Models behind the protocols: those that write captions, and those that embed text."""
