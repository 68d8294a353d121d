"""Bytes of a dataset: on a disk or an object store, in tars with an index, read by ranges."""
