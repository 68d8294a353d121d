"""Scores of clips: a number by any model, as a column to ask for in views."""
