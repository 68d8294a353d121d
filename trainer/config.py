"""Settings of a training run: the resolved ones are saved with it and read back strictly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from captioner.mixing import Mixing
from manifests.cli.ranges import FOR_EVER, SEED, Range, check_ranges
from manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the DiT. What depends on the data (channels, text width) is filled in from the manifest."""

    width: int = 192
    depth: int = 6
    num_heads: int = 3
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent cells per token: time, height, width."""
    latent_channels: int = 16
    text_width: int = 128
    rope_theta: float = 1000.0
    text: Literal["cross", "joint"] = "cross"
    """How a sample reads its text: by cross-attention in each block, or as part of its own sequence (single
    stream)."""

    @property
    def hidden_width(self) -> int:
        """Of the feed-forward part: 8/3 of the width, in multiples of 16, as SwiGLU has three matrices."""
        return 8 * self.width // 3 // 16 * 16

    def __post_init__(self) -> None:
        check_ranges(
            "model",
            self,
            dict.fromkeys(
                ("width", "depth", "num_heads", "patch", "latent_channels", "text_width", "rope_theta"),
                (1, FOR_EVER, True),
            ),
        )
        if self.width % (2 * self.num_heads) or len(self.patch) != 3:
            raise UsageError(
                "model",
                f"has width {self.width}, {self.num_heads} heads and patch {self.patch}",
                "Heads have an even width; a patch has three sides.",
            )


LONG_DOCUMENTS = 2048
PLAN_VERSION = 3
CONDITIONS = ("none", "first", "prefix", "suffix", "ends", "random", "box")


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The objective. Sigma is the noise level, from 0 (clean) to 1 (noise)."""

    path: Literal["linear", "cosine"] = "linear"
    """linear: rectified flow, x = (1 - sigma) clean + sigma noise. cosine: v-prediction, x = cos(a) clean +
    sin(a) noise with a = sigma pi / 2, for comparison."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift_spatial: float = 0.5
    """Power of the picture's side, the root of its tokens, in the shift: at 0.5 four times the side shift
    twice as far."""
    shift_temporal: float = 0.5
    """The same of the root of the number of layers of tokens in time."""
    shift_max: float = 0.0
    """Most of the shift, and one over it the least; 0: as far as the powers take it."""
    text_dropout: float = 0.1
    condition_dropout: float = 0.1
    """Share of samples with given frames whose given frames are taken away, so that guidance may lean on them
    at sampling; their text is dropped in its own share of cases."""
    condition: dict[str, float] = field(
        default_factory=lambda: {
            "none": 0.6,
            "first": 0.1,
            "prefix": 0.1,
            "suffix": 0.07,
            "ends": 0.05,
            "random": 0.05,
            "box": 0.03,
        }
    )
    """Weights of what is given: nothing, the first latent frame, up to a quarter of them at the front, at the
    end, at both ends or anywhere, or all that lies inside or outside a box."""
    condition_sigma: float = 0.05
    """Given tokens get a noise level up to this in half of the cases: a little keeps motion going across the
    joint."""

    def __post_init__(self) -> None:
        share = (0.0, 1.0, True)
        check_ranges(
            "flow",
            self,
            {
                "text_dropout": share,
                "condition_dropout": share,
                "condition_sigma": share,
                "condition": (0, FOR_EVER, True),
                "logit_mean": (-20, 20, True),
                "logit_std": (0, FOR_EVER, False),
                **dict.fromkeys(("shift_spatial", "shift_temporal"), (0, 4, True)),
                "shift_max": (0, FOR_EVER, True),
            },
        )
        if 0 < self.shift_max < 1:
            raise UsageError(
                "flow", f"has shift_max {self.shift_max:g}", "Give 0 for no bound, or at least 1."
            )
        if unknown := set(self.condition) - set(CONDITIONS):
            raise UsageError(
                "flow condition",
                f"has unknown patterns {sorted(unknown)}",
                f"Patterns: {', '.join(CONDITIONS)}.",
            )
        if not sum(self.condition.values()) > 0:
            raise UsageError("flow condition", "gives no pattern a weight", 'At least {"none": 1}.')


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A part of a run that reads a part of the data (trainer/data/curriculum.py)."""

    steps: int = 0
    """Length of the stage; the last one goes on to the end of the run."""
    max_tokens: int = 0
    """Most tokens of a sample: longer ones are shown through windows. 0: the budget of a pack."""
    max_s: float = 0.0
    """Most seconds of a clip to show at once, through windows. 0: all."""
    min_fps: float = 0.0
    max_fps: float = 0.0
    """Videos of other frame rates are left out of the stage, and counted. 0: no limit."""
    image_share: float | None = None
    """Share of images among the tokens; None: as they lie in the data."""

    def __post_init__(self) -> None:
        least = (0, FOR_EVER, True)
        check_ranges(
            "stage",
            self,
            {
                **dict.fromkeys(("steps", "max_tokens", "max_s", "min_fps", "max_fps"), least),
                "image_share": (0, 1, True),
            },
        )


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """A whole run."""

    preset: str = "tiny"
    model: ModelConfig = field(default_factory=ModelConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    tokens: int = 2048
    """Token budget of a pack."""
    attention_cost: float = 0.0
    """Time of a squared token where a token takes 1, by which packs are balanced (`rushes measure`, which
    times the device); 0: by operations."""
    packs_per_step: int = 1
    """Packs of one optimizer step over all ranks: the global batch."""
    steps: int = 500
    lr: float = 1.5e-3
    warmup_steps: int = 40
    cooldown: float = 0.3
    """Share of the steps at the end over which the rate falls to a twentieth."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for the matrices of the blocks; the rest by AdamW (trainer/state/optimizers.py)."""
    schedule: Literal["flat-cosine", "cosine", "constant"] = "flat-cosine"
    """Of the learning rate, after the warm-up."""
    ema_decay: float = 0.995
    ema_more: tuple[float, ...] = ()
    """Decays of further averages, each exported beside the first."""
    captions: dict[str, float] = field(default_factory=lambda: {"dense": 0.95, "alt,short": 0.05})
    """Weights of caption kinds, or kind@captioner (the DALL-E 3 blend by default; captioner/mixing.py)."""
    mix: dict[str, float] = field(default_factory=dict)
    """Views to read and how often an epoch shows each clip of them; empty: the one view that is named, once.
    """
    balance: str = ""
    """Columns of clips whose values are shown equally often, or a query that gives clip_id and weight; empty:
    all clips alike."""
    image_share: float | None = None
    """Share of images among the tokens, where there are no stages; None: as they lie in the data."""
    stages: tuple[StageConfig, ...] = ()
    """Stages one after the other; none: all data all the time."""
    long_clips: Literal["cover", "window"] = "cover"
    """A clip longer than a pack, or than its stage allows: an epoch shows all of it in consecutive windows,
    or one random window."""
    oversize: Literal["refuse", "window"] = "refuse"
    """A frame that alone has more tokens than the budget: refuse to begin, or show a random part of it,
    counted in the plan."""
    held_out: float = 0.06
    """Share of clips kept for validation: whole sources with their near-duplicates, picked by their ids."""
    plan_version: int = PLAN_VERSION
    """Rules by which clips are held out and cut into windows; a run keeps those that it began with. 2: single
    clips are held out, and a window may be one layer."""
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    """Checkpoints kept."""
    max_corrupt: float = 0.01
    """Share of samples that may be unreadable before the run fails."""
    spike_factor: float = 4.0
    """A step whose loss is this many times the usual one, the lowest median of 64, is skipped; 0 takes all
    whose gradient is finite."""
    spike_norm: float = 20.0
    """The same of the gradient's norm, against the median of the last 64; 0: any."""
    roll_back_after: int = 5
    """Skipped steps in a row after which weights and optimizer go back to the last checkpoint beyond which
    the run was calm, while the data goes on; 0: never."""
    shard_size: int = 0
    """Processes that share one copy of the weights; there are as many copies as such groups (HSDP). 0: all
    share one."""
    sequence_parallel: int = 1
    """Processes that share each pack, for clips too long for one."""
    ring: int = 1
    """Parts in a row into which these deal a pack's tokens for attention, exchanging keys; within a part they
    deal the heads (Ulysses). 1: heads alone."""
    checkpoints: str = ""
    """Folder on an object store that gets a copy of each checkpoint, and from which a run goes on whose own
    folder is gone; empty: none."""
    is_async_saving: bool = False
    """Go on training while a checkpoint is written."""
    is_bf16: bool = False
    """Compute in bfloat16; weights, averages and the optimizer stay in fp32."""
    is_half_stream: bool = False
    """Keep the residual stream in half precision too, where computing is."""
    noise: Literal["host", "device"] = "host"
    """Where noise is drawn: by the loader's threads, the same on every machine; or where the model is, which
    spares them, and on a device of another kind gives other numbers."""
    long_documents: int = LONG_DOCUMENTS
    """Tokens from which a sample has a kernel of attention to itself on a GPU (`rushes measure`); 0: none."""
    is_checkpointed: bool = False
    """Recompute each block's activations in the backward pass."""
    checkpoint_keeps: Literal["auto", "nothing", "attention", "widest"] = "auto"
    """What is kept of a block that is recomputed: the results of attention, the product into the MLP too
    (widest), or as much as the device's memory allows."""
    is_compiled: bool = False
    """Compile each block."""
    reads: int = 0
    """Samples fetched at once; 0: few from a disk, many from an object store."""
    profile: str = ""
    """Steps to trace, as 10:13; empty: none."""
    is_tensorboard: bool = True
    """Write TensorBoard's files too."""
    validate_every: int = 0
    """Steps between validations; 0: before and after only."""
    validate_on: int = 512
    """Most held-out clips to validate on."""
    sample_every: int = 0
    """Steps between sheets of samples in the run folder; 0: at the end only."""
    wandb: str = ""
    """Project of Weights & Biases to report to as well; empty: none."""
    init: str = ""
    """Model to begin from: a run, an exported model, or a name under weights/; empty: new weights."""
    lora_rank: int = 0
    """Rank of the adapters that are trained in place of the weights; 0: the weights themselves."""
    init_fresh: tuple[str, ...] = ()
    """Weights that are begun anew all the same, by the beginnings of their names."""
    peak_tflops: float = 0.0
    """Of one device at the precision used, for MFU; 0: not told."""

    def __post_init__(self) -> None:
        check_ranges("--", self, _RANGES)
        if self.is_half_stream and not self.is_bf16:
            raise UsageError("--half-stream", "needs --bf16 True")
        if self.checkpoint_keeps != "auto" and not self.is_checkpointed:
            raise UsageError("--checkpoint-keeps", "needs --checkpointing True")
        Mixing(weights=self.captions)


GUARDS = ("spike_factor", "spike_norm")


def check_begun(config: FitConfig) -> None:
    """Refuse what a run that is begun now may not have; runs of older versions may go on with it.

    Raises:
        UsageError: two averages have one name, or a guard would refuse ordinary steps.
    """
    decays = [f"{decay:g}" for decay in (config.ema_decay, *config.ema_more)]
    if len(set(decays)) < len(decays):
        raise UsageError(
            "--ema-decay and --ema-more",
            f"name one decay twice, by the six digits they are told apart by ({', '.join(decays)})",
            "Give each decay once.",
        )
    check_guard(config, GUARDS)


def check_guard(config: FitConfig, names: Collection[str]) -> None:
    """Refuse a guard that is set now and would refuse ordinary steps.

    Args:
        names: of those that are set now, of `GUARDS`.

    Raises:
        UsageError: one would.
    """
    for name in GUARDS:
        if name in names and 0 < (factor := getattr(config, name)) < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} {factor:g}",
                "would refuse ordinary steps",
                "Give 0, or 1 and more.",
            )


_RANGES: dict[str, Range] = {
    **dict.fromkeys(
        ("packs_per_step", "steps", "save_every", "keep", "sequence_parallel", "ring"),
        (1, FOR_EVER, True),
    ),
    "tokens": (1, 2**31 - 1, True),
    **dict.fromkeys(("lr", "clip_norm"), (0, 1e6, False)),
    **dict.fromkeys(("cooldown", "image_share", "max_corrupt"), (0, 1, True)),
    **dict.fromkeys(
        (
            "weight_decay",
            "warmup_steps",
            "attention_cost",
            "shard_size",
            "validate_every",
            "validate_on",
            "sample_every",
            "lora_rank",
            "spike_factor",
            "spike_norm",
            "roll_back_after",
            "peak_tflops",
            "reads",
            "long_documents",
            "mix",
            "captions",
        ),
        (0, FOR_EVER, True),
    ),
    **dict.fromkeys(("ema_decay", "ema_more"), (0, 1, True)),
    "plan_version": (2, PLAN_VERSION, True),
    "seed": SEED,
    "held_out": (0, 1, True),
}


LATER = {"lora_rank": 0, "plan_version": 2, "balance": "", "noise": "host"}
"""Settings that came later, with what runs did before: a run that lacks them has these, and at these they do
not tell runs apart."""

RUN_ONLY = frozenset(
    {
        "steps",
        "save_every",
        "keep",
        "max_corrupt",
        "is_checkpointed",
        "checkpoint_keeps",
        "is_half_stream",
        "long_documents",
        "is_compiled",
        "is_tensorboard",
        "reads",
        "profile",
        "validate_every",
        "peak_tflops",
        "shard_size",
        "sequence_parallel",
        "ring",
        "is_async_saving",
        "checkpoints",
        "validate_on",
        "sample_every",
        "wandb",
        "lr",
        "warmup_steps",
        "schedule",
        "cooldown",
        "weight_decay",
        "clip_norm",
        "spike_factor",
        "spike_norm",
        "roll_back_after",
        "is_bf16",
        "init",
        "init_fresh",
    }
)
"""Settings that a resumed run may change: they decide neither what a step reads nor what is averaged. Each
change is noted in the run's `changes.jsonl`."""
