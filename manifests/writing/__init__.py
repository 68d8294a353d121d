"""What writes a dataset: the lease, commits, and the events of a run."""
