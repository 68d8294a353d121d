"""What a run is made of and keeps: the sharded model, optimizers, checkpoints, exported models."""
