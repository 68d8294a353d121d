"""A captioner of a size that tests train, and what its training wrote down."""

import json

from captioner.coca.config import CocaConfig

SMALL = CocaConfig(
    embed_dim=64,
    image_px=48,
    patch_px=8,
    vision_width=64,
    pooler_queries=1,
    text_width=64,
    context_length=64,
    vocab_size=300,
    max_patches=36,
    max_frames=4,
)


def losses_of(folder):
    """Of each step, of the lesson that it was."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] if "loss" in row else row["words"] for row in rows]
