"""Running stages on Ray: connecting, dealing shards to actors, resuming, repairing, reporting."""
