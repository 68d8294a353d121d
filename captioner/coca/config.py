"""Sizes of a video CoCa, from the tiny CPU model to ViT-L/14, and open_clip's in the same terms."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CocaConfig:
    """Everything that decides the shapes of the weights, and how clips become input."""

    embed_dim: int = 128
    """Width of the shared space of pictures and texts."""
    image_px: int = 72
    """Side of the square picture whose grid the position table is for; other shapes read the table in
    between."""
    patch_px: int = 8
    vision_width: int = 128
    vision_layers: int = 2
    head_width: int = 32
    pooler_queries: int = 1
    """Tokens the attentional pooler leaves of a clip; the first is the contrastive one, and all there is from
    scratch, where the decoder attends to the places."""
    pooler_heads: int = 4
    text_width: int = 128
    text_heads: int = 4
    text_layers: int = 1
    decoder_layers: int = 2
    context_length: int = 120
    """Longest caption in tokens, start and end included."""
    vocab_size: int = 640
    max_frames: int = 3
    """Frames of a clip that are looked at."""
    most_in_a_row: int = 12
    """Previews of a clip up to which these are neighbours around its middle, so that a move is always seen
    over one step in time; of a longer clip they are spread evenly."""
    max_patches: int = 84
    """Patches of one frame, at most about: the frame's own aspect is kept, the whole of it is seen."""
    stem: Literal["patch", "conv"] = "conv"
    """patch: one linear layer, as in open_clip's weights; conv: a few convolutions (Xiao et al. 2021,
    arXiv:2106.14881), which need far less data, of a clip's middle frame and of how it changes, with words
    read off them beside the decoder. `patch_px` is then a power of two, and `text_width` is
    `vision_width`."""
    is_legacy: bool = False
    """open_clip's released weights: CLIP's tokenizer with padding 0, and its class mask, which is off by one.
    """

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> CocaConfig:
        """Read a stored configuration; an unknown setting is an error."""
        if unknown := set(values) - {item.name for item in fields(CocaConfig)}:
            raise UsageError(
                "CoCa config", f"has unknown settings {sorted(unknown)}", "It was written by another version."
            )
        return CocaConfig(**values)

    def open_clip_arguments(self) -> dict[str, Any]:
        """Arguments of `open_clip.coca_model.CoCa`."""
        text = {
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "width": self.text_width,
            "heads": self.text_heads,
            "embed_cls": True,
            "output_tokens": True,
        }
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_px,
                "patch_size": self.patch_px,
                "width": self.vision_width,
                "layers": self.vision_layers,
                "head_width": self.head_width,
                "attentional_pool": True,
                "attn_pooler_queries": self.pooler_queries,
                "attn_pooler_heads": self.pooler_heads,
                "output_tokens": True,
            },
            "text_cfg": {**text, "layers": self.text_layers},
            "multimodal_cfg": {**text, "layers": self.decoder_layers, "attn_pooler_heads": self.pooler_heads},
        }


def tiny() -> CocaConfig:
    """2 M parameters: learns the film world on two CPU cores in minutes."""
    return CocaConfig()


def from_open_clip(name: str) -> CocaConfig:
    """One of open_clip's CoCa configurations, for its released weights (`coca_ViT-B-32`, `coca_ViT-L-14`)."""
    import open_clip

    found = open_clip.get_model_config(name)
    if not found or "multimodal_cfg" not in found:
        raise UsageError(f"open_clip model {name}", "is not a CoCa", "Names: coca_ViT-B-32, coca_ViT-L-14.")
    vision, text, decoder = found["vision_cfg"], found["text_cfg"], found["multimodal_cfg"]
    side = vision["image_size"] // vision["patch_size"]
    return CocaConfig(
        embed_dim=found["embed_dim"],
        image_px=vision["image_size"],
        patch_px=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        head_width=vision.get("head_width", 64),
        pooler_queries=vision.get("attn_pooler_queries", 256),
        pooler_heads=vision.get("attn_pooler_heads", 8),
        text_width=text["width"],
        text_heads=text["heads"],
        text_layers=text["layers"],
        decoder_layers=decoder["layers"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        max_frames=8,
        most_in_a_row=16,
        max_patches=side * side,
        stem="patch",
        is_legacy=True,
    )


PRESETS = {
    "tiny": tiny,
    "coca_ViT-B-32": lambda: from_open_clip("coca_ViT-B-32"),
    "coca_ViT-L-14": lambda: from_open_clip("coca_ViT-L-14"),
}
