"""The dashboard: a read-only web page over a dataset folder.

It reads manifests alone and imports neither torch nor ray.
"""
