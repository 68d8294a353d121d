"""Near-duplicates over all shards."""
