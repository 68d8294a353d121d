"""Settings of an ingest: one frozen dataclass a stage.

What changes a stage's output enters its fingerprint; what does not, does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from captioner.options import CaptionerOptions
from manifests.cli.ranges import (
    COUNT,
    COUNT_OR_NONE,
    FOR_EVER,
    NOT_NEGATIVE,
    SEED,
    SHARE,
    check_ranges,
)


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How footage is cut into segments and dealt to shards."""

    segment_s: float = 600.0
    """Long sources are cut into segments of this many seconds, the unit of work."""
    shard_s: float = 300.0
    """Seconds of footage a shard holds, about."""
    seed: int = 0
    """Seed of the shuffle that deals segments to shards."""
    limit: int = 0
    """Take only the first N files; 0 for all."""

    def __post_init__(self) -> None:
        check_ranges(
            "--plan.",
            self,
            {
                "segment_s": (1, FOR_EVER, True),
                "shard_s": (0.1, FOR_EVER, True),
                "limit": COUNT_OR_NONE,
                "seed": SEED,
            },
        )


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """How shots are found and what a clip may be."""

    cut_threshold: float = 3.0
    """A frame starts a new shot when it differs from the one before this many times more than its neighbours
    do (PySceneDetect's adaptive ratio)."""
    lead_in_s: float = 1.0
    """Decoded before a segment at least, and as many frames as the shot detector looks back, so that its
    labels are those of the whole."""
    min_clip_s: float = 0.25
    """Shorter shots of a longer source are dropped (reason too_short)."""
    max_clip_s: float = 16.0
    """A longer take is cut into windows of this length; the last two share what is left evenly."""
    preview_fps: float = 2.0
    """JPEG previews per second."""
    preview_px: int = 512
    """Longer side of previews and poster."""
    proxy_px: int = 224
    """Longer side of the WebM proxy."""
    proxy_fps: float = 8.0
    """Frames per second of the proxy, at most; the camera is measured at this rate too."""
    hevc_witness: bool = True
    """A second decoder looks at HEVC: FFmpeg takes flipped bits of it for pictures. Files of that codec take
    twice as long."""
    item_limit_s: float = 900.0
    """A segment that gives no frame for so long is a failure (cause time_limit). Does not enter the
    fingerprint."""
    item_limit_bytes: int = 8 << 30
    """A segment for which the process grows beyond this is a failure (reason memory_limit). Does not enter
    the fingerprint."""

    def __post_init__(self) -> None:
        check_ranges(
            "--curate.",
            self,
            {
                "cut_threshold": (0.1, FOR_EVER, True),
                **dict.fromkeys(("lead_in_s", "min_clip_s"), NOT_NEGATIVE),
                "max_clip_s": (0.1, FOR_EVER, True),
                **dict.fromkeys(("preview_fps", "proxy_fps", "item_limit_s"), (0.01, FOR_EVER, True)),
                **dict.fromkeys(("preview_px", "proxy_px"), (16, 65500, True)),
                "item_limit_bytes": COUNT,
            },
        )


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Which image encoder embeds previews.

    None by default: near-duplicates are then found by the perceptual hash alone.
    """

    model: str = ""
    """An open_clip model: `local-dir:FOLDER` (its config and weights), a hub id, or a name; empty for none.
    """
    pretrained: str = ""
    """Weights of a model given by name: a file, or open_clip's tag."""
    frames: int = 4
    """Previews of a clip that are embedded and averaged, at most."""

    def __post_init__(self) -> None:
        check_ranges("--embed.", self, {"frames": COUNT})


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which models give each clip a number, to be asked for in views."""

    use: tuple[str, ...] = ()
    """text (share of text in the picture and its words, by RapidOCR), NAME=FOLDER of a linear head on
    open_clip (aesthetic, watermark, NSFW), package.module:Class of your own; none by default."""
    batch: int = 16
    """Clips given to a scorer at a time."""

    def __post_init__(self) -> None:
        check_ranges("--score.", self, {"batch": COUNT})


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """How near-duplicate clips are found."""

    enabled: bool = True
    """Look for near-duplicates after the other stages. They are marked, and left out by the view; nothing is
    deleted."""
    within_source: bool = False
    """Compare clips of one source too. Two windows of one still take look the same and are not copies."""
    min_cosine: float = 0.97
    """Embeddings this alike match, where there are embeddings."""

    def __post_init__(self) -> None:
        check_ranges("--dedup.", self, {"min_cosine": (-1, 1, True)})


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CaptionerOptions):
    """The captioner's own options, and how many clips it is given at a time."""

    low_alignment_share: float = 0.0
    """Of each shard's captions that a backend scores against their clips, this share with the lowest scores
    is rejected (reason alignment_percentile)."""

    batch: int = 16
    """Clips per call. Does not enter the fingerprint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges("--caption.", self, {"low_alignment_share": SHARE, "batch": COUNT})


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text encoder runs."""

    encoder: str = "coca"
    """Encoder: hashed-words (no weights, has learnt nothing), coca (the captioner's own text tower),
    open_clip, or transformers (T5, UMT5, Gemma, Qwen ...)."""
    model: str = ""
    """coca: folder of weights (empty: the small ones that come with the project); open_clip:
    `local-dir:FOLDER`; transformers: folder or hub id."""
    structured_variants: int = 2
    """Of each structured caption, so many with fields left out and shuffled are embedded beside it."""

    def __post_init__(self) -> None:
        check_ranges("--text.", self, {"structured_variants": COUNT_OR_NONE})


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """At which size clips are encoded, and by which VAE."""

    max_pixels: int | None = 65536
    """Cap on width x height, one factor for both axes; 65536 is 256 x 256 worth of any aspect. None for
    native size."""
    max_fps: float | None = 16.0
    """Rate cap: existing frames are picked evenly. None for native rate."""
    vae: str = ""
    """Folder of the VAE's weights, or the name of one under weights/; empty for vae-tiny. Its digest enters
    the fingerprint, its path does not."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the VAE's products. bf16 is measured first on every actor, and refused for weights whose latents it
    moves by more than a hundredth."""
    audit_share: float = 0.04
    """Share of the clips that are decoded again and measured: PSNR, SSIM, flicker, drift over five round
    trips (columns `audit_*` of the latents table)."""
    item_limit_s: float = 1800.0
    """A clip that takes longer is a failure (reason time_limit). Does not enter the fingerprint."""
    item_limit_bytes: int = 16 << 30
    """A clip for which the process grows beyond this is a failure (reason memory_limit). Does not enter the
    fingerprint."""

    decoders: int = 4
    """Sources that an actor decodes at the same time, at most: a second one only where the VAE waits for
    frames. Their memory counts for the clip in hand. Does not enter the fingerprint."""

    nvdec: bool = False
    """The GPU decodes H.264, HEVC, VP8, VP9 and AV1 too, where its frames were seen to be the processor's, to
    the bit; else the processor does. Each source that is decoded at a time then holds a CUDA context, a few
    hundred MB. Does not enter the fingerprint."""

    def __post_init__(self) -> None:
        check_ranges(
            "--encode.",
            self,
            {
                "decoders": COUNT,
                "max_pixels": (64, FOR_EVER, True),
                **dict.fromkeys(("max_fps", "item_limit_s"), (0.01, FOR_EVER, True)),
                "audit_share": SHARE,
                "item_limit_bytes": COUNT,
            },
        )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an actor of a stage asks of Ray, and how many there may be.

    0 actors: as many as the cluster has room for.
    """

    num_cpus: float = 1.0
    """CPUs of each actor of the stage."""
    num_gpus: float = 0.0
    """GPUs of each."""
    max_actors: int = 0
    """Most actors of the stage; 0: as many as the cluster has room for."""

    def check(self, stage: str) -> None:
        """Refuse numbers that make no sense.

        Raises:
            UsageError: it has one.
        """
        check_ranges(
            f"--{stage}-on.",
            self,
            {**dict.fromkeys(("num_cpus", "num_gpus"), NOT_NEGATIVE), "max_actors": COUNT_OR_NONE},
        )


def check_resources(config: Any) -> None:
    """Refuse resources of a stage that make no sense, by the option that gave them.

    Raises:
        UsageError: there are some.
    """
    for item in fields(config):
        if isinstance(value := getattr(config, item.name), Resources):
            value.check(item.name.removesuffix("_on"))


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """All stages."""

    plan: PlanConfig = field(default_factory=PlanConfig)
    curate: CurateConfig = field(default_factory=CurateConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    curate_on: Resources = field(default_factory=Resources)
    embed_on: Resources = field(default_factory=lambda: Resources(num_cpus=0.1))
    score_on: Resources = field(default_factory=lambda: Resources(num_cpus=0.1))
    caption_on: Resources = field(default_factory=lambda: Resources(num_cpus=0.1))
    text_on: Resources = field(default_factory=lambda: Resources(num_cpus=0.1))
    encode_on: Resources = field(default_factory=lambda: Resources(num_cpus=0.6))

    def __post_init__(self) -> None:
        check_resources(self)

    def settings(self) -> IngestConfig:
        """These settings alone, without the options that a verb adds to them."""
        return IngestConfig(**{item.name: getattr(self, item.name) for item in fields(IngestConfig)})

    def resources(self) -> dict[str, Resources]:
        """What an actor of each stage asks of Ray, by the stage's name."""
        return {
            "preview": self.curate_on,
            "embed": self.embed_on,
            "score": self.score_on,
            "caption": self.caption_on,
            "text": self.text_on,
            "latent": self.encode_on,
        }

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict) -> IngestConfig:
        """The settings that `to_dict` gave.

        Raises:
            TypeError: there is a field this version does not know.
        """
        parts = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}

        def restored(value: object) -> object:
            return tuple(value) if isinstance(value, list) else value  # JSON knows no tuples

        return cls(
            **{
                name: parts[name](**{key: restored(item) for key, item in value.items()})
                if name in parts
                else value
                for name, value in stored.items()
            }
        )


_NOT_IN_FINGERPRINT = {"enabled", "item_limit_s", "item_limit_bytes", "batch", "decoders", "nvdec", "vae"}


_LATER = {"hevc_witness": True}
"""Settings that came later, and their first values."""


def fingerprinted(config: Any) -> dict:
    """The settings that change a stage's output; those that came later only where they are not as they began,
    so that older columns keep their names."""
    names = [item.name for item in fields(config) if item.name not in _NOT_IN_FINGERPRINT]
    found = {name: getattr(config, name) for name in names}
    return {name: value for name, value in found.items() if name not in _LATER or value != _LATER[name]}
