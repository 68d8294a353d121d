"""Work done again: what failed, what a run worked for, one shard beside the dataset."""
