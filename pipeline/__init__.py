"""The pipeline: raw footage to shard columns, on Ray Data.

See `pipeline/__main__.py` for the road of a datum.
"""
