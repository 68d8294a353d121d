"""Captions and language: the captioner protocol and its backends, quality gates, text encoders and caption mixing."""

from captioner.gates import gate
from captioner.protocol import Caption, Captioner, ClipFrames
from captioner.registry import make_captioner, make_text_encoder

__all__ = ["Caption", "Captioner", "ClipFrames", "gate", "make_captioner", "make_text_encoder"]
