"""What the `latent` column holds of a shard, and the frames it is made of."""
