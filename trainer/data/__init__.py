"""From the manifest to packs of tokens: samples, plans, windows, reading."""
