"""What a run says of itself while it works, and what can be read off that: how far it is, and how fast."""
