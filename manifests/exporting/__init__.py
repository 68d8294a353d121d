"""A view for other tools: plain tars and their card."""
