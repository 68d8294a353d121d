"""Stills: what they are, and which of them no reader here reads."""
