"""Verbs of the captioner: `caption`, `train-captioner`, `upsample`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from captioner.facts import file_facts
from captioner.judging.sheet import SheetRow, contact_sheet
from captioner.options import CaptionerOptions
from captioner.protocol import BudgetSpentError, Caption, Captioner, ClipFrames
from captioner.registry import make_captioner, make_upsampler
from captioner.writing import write_captions
from learning.launching import program, run_processes, without
from manifests import cli
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, POSITIVE, SEED, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.text import last_name
from media.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """Print captions of videos and images, each taken as one clip; cuts inside are seen and named.

    Examples:
      rushes caption clip.mp4 --json
      rushes caption ~/videos --with.captioner transformers --with.model ~/models/Qwen3-VL-8B-Instruct
    """

    ranges: ClassVar[Ranges] = {"limit": COUNT_OR_NONE}

    source: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files."""
    with_: Annotated[CaptionerOptions, tyro.conf.arg(name="with")] = field(default_factory=CaptionerOptions)
    json: bool = False
    """Print JSON with verdicts, provenance and cost."""
    sheet: Path | None = None
    """Also write a PNG with frames and captions side by side."""
    overwrite: bool = False
    """Replace a sheet that exists."""
    limit: int = 0
    """Take only the first N files; 0 for all."""

    def run(self) -> int:
        cli.check_picture("--sheet", self.sheet, is_overwriting=self.overwrite)
        files = self._files()
        backend = make_captioner(self.with_)
        backend.setup()
        found: list[dict[str, Any]] = []
        rows: list[SheetRow] = []
        num_failed = 0
        for path in files:
            try:
                frames, captions = self._captions(path, backend)
            except MediaError as error:
                cli.say(f"{path}: {error}")
                num_failed += 1
                continue
            except BudgetSpentError as error:
                cli.say(f"{path} and those after it: {error}")
                num_failed += 1
                break
            errors = [item.finish_reason for item in captions if item.finish_reason.startswith("error")]
            if errors:
                cli.say(f"{path}: {errors[0]}; it has no caption")
                num_failed += 1
            found += [{"file": str(path), **asdict(caption)} for caption in captions]
            rows.append((frames, f"{path.name}\n{_on_sheet(captions)}"))
            if not self.json and not errors:
                for caption in captions:
                    print(f"{cli.printable(str(path))}\t{caption.kind}\t{_in_words(caption)}")
        if self.json:
            cli.print_json(found)
        if self.sheet:
            contact_sheet(rows, self.sheet)
            cli.say(f"sheet: {self.sheet}")
        return cli.FAILED_ITEMS if num_failed else cli.DONE

    def _files(self) -> list[Path]:
        """The files to caption; in a folder, JSON and text files only describe others.

        Raises:
            UsageError: there are none.
        """
        if not self.source.exists():
            raise UsageError(str(self.source), "does not exist")
        if self.source.is_dir():
            below = sorted(path for path in self.source.rglob("*") if path.is_file())
            files = [path for path in below if path.suffix.lower() not in {".json", ".txt"}]
        else:
            files = [self.source]
        if not files:
            raise UsageError(str(self.source), "holds no file")
        return files[: self.limit] if self.limit else files

    def _captions(self, path: Path, backend: Captioner) -> tuple[Sequence[np.ndarray], list[Caption]]:
        """The frames looked at, and the captions of a file.

        Raises:
            MediaError: it cannot be read.
            BudgetSpentError: the budget was spent before it.
        """
        frames, times_s, facts = file_facts(path)
        if facts["is_part"]:
            cli.say(f"{path}: only the first minute is looked at; `rushes ingest` takes all of it")
        clip = ClipFrames(clip_id=path.name, frames=frames, times_s=times_s, facts=facts)
        [captions] = write_captions(backend, [clip], self.with_.retries)
        return frames, captions


def _in_words(caption: Caption) -> str:
    """The text, and why it is not accepted if it is not."""
    verdict = caption.verdict
    flaw = "" if verdict.status == "accepted" else f" [{verdict.status}: {'; '.join(verdict.reasons)}]"
    return f"{cli.printable(caption.text)}{flaw}"


def _on_sheet(captions: list[Caption]) -> str:
    shown = [item for item in captions if item.kind in {"short", "dense"}]
    return "\n".join(f"{item.kind} ({item.verdict.status}): {item.text}" for item in shown)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the project's own captioner: a base, and from it a short and a dense fork.

    Run the same command again to resume.

    Examples:
      rushes train-captioner OUT
      rushes train-captioner OUT --stage dense --films 0 --data DATASET
      torchrun --nproc-per-node 8 -m rushes train-captioner OUT --preset coca_ViT-L-14 --films 0
        --data DATASET --init open_clip_weights.safetensors
    """

    ranges: ClassVar[Ranges] = {
        "films": COUNT_OR_NONE,
        **dict.fromkeys(("steps", "batch", "accumulate"), COUNT),
        "lr": POSITIVE,
        "seed": SEED,
        **dict.fromkeys(("processes", "threads"), WORKERS),
    }

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the weights."""
    stage: Literal["all", "base", "short", "dense"] = "all"
    """One stage, or all in order; the forks need the base."""
    preset: Literal["tiny", "coca_ViT-B-32", "coca_ViT-L-14"] = "tiny"
    """Size of the model."""
    films: int = 16000
    """Clips of the film world to learn from; 0 for none."""
    data: str = ""
    """Dataset to learn from: its previews and captions."""
    view: str = "default"
    """View of the dataset."""
    init: Path | None = None
    """Weights of open_clip's CoCa of the same size for the base to start from."""
    steps: int | None = None
    """Steps of each stage, its parts shortened alike; left out, the preset's."""
    batch: int | None = None
    """Clips a step, over all processes; each text is told from those of all others."""
    accumulate: int | None = None
    """Parts of a step, to save memory; what is learnt stays the same."""
    lr: float | None = None
    """Peak learning rate."""
    seed: int | None = None
    """Of the initial weights, the films and the order of clips."""
    processes: int = 1
    """Processes on this machine that share each step; on a CPU one process of several threads is faster."""
    threads: int = 2
    """CPU threads of each process."""

    def run(self) -> int:
        if self.processes > 1:
            return run_processes(
                [*program(), "train-captioner", *without(sys.argv[2:], ("--processes",))],
                self.processes,
            )
        import torch

        from captioner.coca.training.stages import (
            STAGES,
            Source,
            is_of_older_version,
            settings_of,
            train_stages,
        )
        from learning.loop.run_lock import one_at_a_time
        from learning.processes import join
        from learning.stopping import Interrupted

        if not self.films and not self.data:
            raise UsageError(
                "--films 0 without --data", "leaves nothing to learn from", "Give --data DATASET."
            )
        if self.init and not self.init.exists():
            raise UsageError(f"--init {self.init}", "does not exist")
        cli.writable(self.out)
        torch.set_num_threads(self.threads)
        given = {name: getattr(self, name) for name in ("steps", "batch", "accumulate", "lr", "seed")}
        settings = settings_of(self.preset, given)
        source = Source(films=self.films, data=self.data, view=self.view)
        if self.seed is not None:
            if is_of_older_version(self.out):
                cli.say(
                    f"captioner: {self.out} was begun by an earlier version: its films stay those of seed 1"
                )
            else:
                source = replace(source, seed=self.seed)
        stages: list[str] = list(STAGES) if self.stage == "all" else [self.stage]
        join()
        try:
            with one_at_a_time(self.out / "training", "captioner"):
                train_stages(self.out, self.preset, stages, settings, source, self.init, self._command())
        except Interrupted as stopped:
            return stopped.code
        if join().rank == 0:
            print(self.out)
        return cli.DONE

    def _command(self) -> str:
        """The command line without the folders of this machine, for the weights' record."""
        words = f"rushes train-captioner {self.out.name} --preset {self.preset} --films {self.films}"
        for name in ("stage", "steps", "batch", "accumulate", "lr", "seed"):
            value = getattr(self, name)
            words += "" if value is None else f" --{name} {value}"
        for name, place in (("data", self.data), ("init", self.init)):
            words += f" --{name} {last_name(str(place))}" if place else ""
        return words


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Fill a short prompt up to the kind of caption a model was trained on; every word of it stays.

    Examples:
      rushes upsample "a red ball on a meadow"
      rushes upsample "a cat" --server http://127.0.0.1:8000/v1 --model NAME
    """

    ranges: ClassVar[Ranges] = {"choice": COUNT_OR_NONE}

    prompt: Annotated[str, tyro.conf.Positional]
    """What to show."""
    image: bool = False
    """For a picture: nothing is said of a camera's move."""
    choice: int = 0
    """Other numbers give other phrases."""
    server: str = ""
    """OpenAI-compatible server to ask; none: phrases learnt from captions."""
    model: str = ""
    """The server's name for its model."""

    def run(self) -> int:
        if not self.prompt.strip():
            raise UsageError("the prompt", "is empty")
        print(make_upsampler(self.server, self.model)(self.prompt, not self.image, self.choice))
        return cli.DONE
