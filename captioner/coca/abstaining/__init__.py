"""When the captioner says nothing: clips unlike its training, and captions it is not sure of."""
