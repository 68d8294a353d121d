"""Captions and language: captioners, what of a caption is believed, text encoders, training, evaluation."""
