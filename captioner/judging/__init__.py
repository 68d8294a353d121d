"""How good a captioner is: by attribute on exact truth, by a judge model, side by side."""
