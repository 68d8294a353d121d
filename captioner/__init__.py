"""Captions and language: the captioner protocol and its backends, quality gates, text encoders, caption
mixing, prompt upsampling, training and evaluation.
"""

from captioner.gates.gates import judge
from captioner.options import CaptionerOptions
from captioner.protocol import Caption, Captioner, ClipFrames, Provenance, Usage, Verdict
from captioner.registry import make_captioner, make_text_encoder
from captioner.writing import write_captions

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerOptions",
    "ClipFrames",
    "Provenance",
    "Usage",
    "Verdict",
    "judge",
    "make_captioner",
    "make_text_encoder",
    "write_captions",
]
