"""What writes a dataset, and takes out of it: the lease, commits, compaction, removal."""
