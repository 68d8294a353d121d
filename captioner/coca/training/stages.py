"""The stages of DALL-E 3's captioner (Betker et al. 2023, section 2.1): a base and two forks of it.

The base learns from (clip, alt text), the forks from short and from dense captions.

The forks are forks of the base, not a chain. The base learns to see and is reluctant to describe; the forks
learn how much to say.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioner.coca.abstaining.domain import Domain
from captioner.coca.abstaining.looks import Looks
from captioner.coca.checkpoint import load_stage, save_stage
from captioner.coca.config import PRESETS, CocaConfig
from captioner.coca.decoding import Decoding
from captioner.coca.folder import LOOKS, STAGES, CaptionerFolder, read_folder, update_record, write_folder
from captioner.coca.listening import listen_all
from captioner.coca.model import VideoCoCa, count_parameters, load_open_clip
from captioner.coca.tokenizer import CaptionTokenizer, ClipTokenizer, Tokens
from captioner.coca.training.data import Batches, Example, dataset_examples, film_examples
from captioner.coca.training.stage import StageConfig, check_batch, train_stage
from captioner.language.upsample import PhraseUpsampler
from learning.processes import exchanged, join, wait_for_all
from learning.sharing import shared
from manifests.cli import say
from manifests.errors import RushesError, UsageError
from manifests.fingerprint import file_sha256
from manifests.text import last_name

HELD_OUT_EXAMPLES = 400
_HELD_OUT_SEED = 77
_HELD_OUT_EVERY = 20
_TOLD = 4000
"""Examples, evenly picked, whose captions are enough to learn a tokenizer from."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where examples come from: clips of the film world, and a dataset's previews and captions."""

    films: int = 16000
    """Clips of the film world to draw."""
    several: float = 0.6
    """Share of them that show more than one thing: what belongs to which is the last thing learnt, and only
    from these."""
    data: str = ""
    """Dataset to learn from as well."""
    view: str = "default"
    seed: int = 1

    def examples(self, config: CocaConfig) -> tuple[list[Example], list[Example]]:
        """(to learn from, held out).

        Held out are other clips of the film world, and one in twenty of a dataset's.
        """
        own = self._of_dataset(config) if self.data else []
        kept = own[::_HELD_OUT_EVERY][:HELD_OUT_EXAMPLES] if len(own) >= _HELD_OUT_EVERY else []
        out = {id(example) for example in kept}
        return self._films(config) + [
            example for example in own if id(example) not in out
        ], self._held_out_films(config) + kept

    def _of_dataset(self, config: CocaConfig) -> list[Example]:
        """Decoded by one process of each node, and mapped by its others."""

        def made() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            found = dataset_examples(self.data, self.view, config)
            frames = {str(number): example.frames for number, example in enumerate(found)}
            return frames, {"texts": [example.texts for example in found]}

        frames, told = shared("the examples", made)
        return [Example(own, texts) for own, texts in zip(frames.values(), told["texts"], strict=True)]

    def _films(self, config: CocaConfig) -> list[Example]:
        """Drawn by all processes of a training, a part each, and exchanged."""
        rank, size, _ = join()
        if not self.films:
            return []
        own = film_examples(self.films, self.seed, config, 2 if size == 1 else 1, self.several, (rank, size))
        return [
            example
            for row in itertools.zip_longest(*exchanged(own))
            for example in row
            if example is not None
        ]

    def _held_out_films(self, config: CocaConfig) -> list[Example]:
        if not self.films or join().rank:  # thresholds are measured by the first process alone
            return []
        return film_examples(max(32, min(HELD_OUT_EXAMPLES, self.films)), self.seed + _HELD_OUT_SEED, config)

    def describe(self) -> str:
        return (
            f"film world, {self.films} clips of seed {self.seed}, {self.several:g} of them of several things"
            + (f", and {last_name(self.data)}" if self.data else "")
        )


def tiny_stages() -> dict[str, StageConfig]:
    """For two CPU cores.

    The base learns to see from alt text; each fork learns to see what its captions speak of, then to tell,
    the dense one far more.
    """
    base = StageConfig(
        kind="alt",
        look_steps=400,
        watch_steps=100,
        steps=700,
        batch=16,
        lr=1e-3,
        muon_gain=2.5,
        still_share=0.3,
    )
    forked = replace(base, still_share=0.1, contrast_weight=0.1, kept=0.5)
    return {
        "base": base,
        "short": replace(forked, kind="short", look_steps=3600, watch_steps=1100, steps=5700),
        "dense": replace(forked, kind="dense", look_steps=1000, watch_steps=1200, steps=3100),
    }


def large_stages() -> dict[str, StageConfig]:
    """For the sizes of open_clip's models, on GPUs."""
    base = StageConfig(
        kind="alt",
        steps=100_000,
        batch=1024,
        lr=2e-4,
        warmup_steps=2000,
        weight_decay=0.2,
        is_bf16=True,
        save_every=2000,
        ema_decay=0.9998,
    )
    forked = replace(base, steps=20_000, batch=512, lr=2e-5, contrast_weight=0.1)
    return {"base": base, "short": replace(forked, kind="short"), "dense": replace(forked, kind="dense")}


def make_tokenizer(config: CocaConfig, examples: list[Example]) -> Tokens:
    """CLIP's for its released weights, else one trained on the captions at hand."""
    if config.is_legacy:
        return ClipTokenizer()
    told = examples[:: max(1, len(examples) // _TOLD)]
    return CaptionTokenizer.train(
        (text for example in told for texts in example.texts.values() for text in texts), config.vocab_size
    )


def _check_same(
    out: Path, stage: str, done: dict[str, Any], asked: StageConfig, source: Source, init: Path | None
) -> None:
    """Refuse other settings, data or beginning for a stage that is done.

    Raises:
        UsageError: some differ.
    """
    wanted = {**json.loads(json.dumps(asdict(asked))), **_origin(stage, source, init)}
    others = [name for name in wanted if name in done and done[name] != wanted[name] and name != "save_every"]
    if others:
        told = ", ".join(f"{name} {done[name]}, asked {wanted[name]}" for name in others[:3])
        raise UsageError(
            str(out), f"has its stage {stage} from another training ({told})", "Name another folder."
        )


def is_of_older_version(out: Path) -> bool:
    """Whether stages of a folder are of a version that drew the same films whatever its seed."""
    if not (out / "config.json").exists():
        return False
    try:
        records = read_folder(out).stages.values()
    except (OSError, RushesError):
        return False  # what is wrong with it is said where it is used
    return any("view" not in record for record in records)


def _origin(stage: str, source: Source, init: Path | None) -> dict[str, str]:
    """What a stage's record says of what it was made from; of a base that began from weights their digest."""
    found = {"data": source.describe(), "view": source.view if source.data else ""}
    if stage != "base":
        return found
    weights = file_sha256(init)[:16] if init and init.is_file() else init.name if init else ""
    return found | {"began_from": weights}


def train_stages(
    out: Path,
    preset: str,
    stages: list[str],
    settings: dict[str, StageConfig],
    source: Source,
    init: Path | None,
    command: str,
) -> CaptionerFolder:
    """Train stages in order, each from where it stopped; what is done is left alone.

    Args:
        init: weights of an open_clip CoCa for the base to start from.
    """
    config = PRESETS[preset]()
    if init and "base" in stages and not (out / "base.safetensors").exists():
        load_open_clip(preset, init)  # before anything is made: what is wrong with it ends it here
    if "base" not in stages and not (out / "base.safetensors").exists():
        raise UsageError(
            str(out), "has no stage base to begin from", "Leave --stage out, or train base first."
        )
    rank, _, _ = join()
    for stage in stages:
        check_batch(settings[stage])
    tell = say if rank == 0 else (lambda text: None)
    tell(f"captioner: drawing {source.describe()}")
    examples, held = source.examples(config)
    if rank == 0:
        write_folder(out, config, make_tokenizer(config, examples))
    wait_for_all()
    folder = read_folder(out)
    if rank == 0 and not held:
        tell(
            f"captioner: {len(examples)} clips are too few to hold any out: no thresholds can be measured, "
            "so this captioner will never abstain"
        )
    if rank == 0 and held and not (out / LOOKS).exists():
        Looks.measure([example.frames for example in examples], [example.frames for example in held]).save(
            out
        )
    for stage in stages:
        if (out / f"{stage}.safetensors").exists() and not (
            out / "training" / stage / "state.safetensors"
        ).exists():
            _check_same(out, stage, folder.stages[stage], settings[stage], source, init)
            tell(f"captioner: stage {stage} is done")
            continue
        torch.manual_seed(settings[stage].seed)
        model = (
            (load_open_clip(preset, init) if init else VideoCoCa(config))
            if stage == "base"
            else fork(folder, settings[stage])
        )
        tell(
            f"captioner: stage {stage}: {count_parameters(model) / 1e6:.2f} M parameters, {len(examples)} "
            f"clips, {settings[stage].steps} steps"
        )
        chosen = settings[stage]
        batches = Batches(examples, chosen.kind, chosen.batch, chosen.seed, chosen.lesson)
        average, record = train_stage(model, folder.tokenizer, batches, chosen, out / "training" / stage)
        if rank == 0:
            save_stage(folder, stage, average, {**record, "command": command, **_origin(stage, source, init)})
            if held:
                update_record(out, stage, {"domain": measure_domain(folder, stage, held).to_record()})
            (out / "training" / stage / "state.safetensors").unlink()
        wait_for_all()
    if rank == 0:
        phrases = PhraseUpsampler.fit(text for example in examples for text in example.texts.get("dense", []))
        phrases.save(out / "phrases.json")
    return folder


@torch.no_grad()
def fork(folder: CaptionerFolder, settings: StageConfig) -> VideoCoCa:
    """The base as a fork begins: each weight a mean of the base's and a new one (`StageConfig.kept`).

    What has learnt one thing from scratch learns the next more slowly than what has learnt nothing; after
    shrinking and perturbing it does not (Ash and Adams 2020, arXiv:1910.08475). Seeded apart from the base's
    own beginning, which would not perturb.
    """
    model = load_stage(folder, "base")
    if settings.kept < 1:
        torch.manual_seed(settings.seed + 1)
        for weight, new in zip(model.parameters(), VideoCoCa(folder.config).parameters(), strict=True):
            weight.lerp_(new, 1 - settings.kept)
    return model


def measure_domain(folder: CaptionerFolder, stage: str, held: list[Example]) -> Domain:
    """Thresholds for abstaining, from clips the stage was not trained on."""
    heard = listen_all(load_stage(folder, stage), folder, [example.frames for example in held], Decoding())
    return Domain.measure([item.written.mean_logprob for item in heard], [item.alignment for item in heard])


def settings_of(preset: str, overrides: dict[str, Any]) -> dict[str, StageConfig]:
    """The stages of a preset with fields replaced in all of them; None leaves the preset's value."""
    given = {key: value for key, value in overrides.items() if value is not None}
    stages = tiny_stages() if preset == "tiny" else large_stages()
    return {name: _shortened(replace(config, **given), config.steps) for name, config in stages.items()}


def _shortened(config: StageConfig, steps: int) -> StageConfig:
    """The stage with its first parts as long, against the whole, as they were with `steps`."""
    share = config.steps / steps
    return replace(
        config, look_steps=round(config.look_steps * share), watch_steps=round(config.watch_steps * share)
    )


__all__ = ["STAGES", "Source", "settings_of", "train_stages"]
