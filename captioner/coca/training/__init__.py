"""Training the captioner: examples, the losses of a step, one stage, and all of them."""
