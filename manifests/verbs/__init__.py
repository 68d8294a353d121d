"""Verbs: look into a dataset, keep it in order, make the pages of docs/."""
