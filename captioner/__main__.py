"""`python -m captioner caption | train | eval | upsample | compare | judge`: caption files, train the
project's own captioner and measure any of them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from captioner import CaptionerOptions, ClipFrames, make_captioner, write_captions
from captioner.backends.server import BudgetSpentError
from captioner.commands import Compare, Eval, Judge
from captioner.facts import file_facts
from captioner.judging.sheet import contact_sheet
from learning.launching import run_processes, without
from manifests import cli
from manifests.errors import UsageError
from media import MediaError


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """Print captions of videos and images, each taken as one clip; cuts inside are seen and named.

    Examples:
      python -m captioner caption clip.mp4 --json
      python -m captioner caption ~/videos --with.captioner transformers --with.model
      ~/models/Qwen3-VL-8B-Instruct --sheet captions.png
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder of files."""
    with_: Annotated[CaptionerOptions, tyro.conf.arg(name="with")] = field(default_factory=CaptionerOptions)
    json: bool = False
    """Print JSON with verdicts, provenance and cost."""
    sheet: Path | None = None
    """Also write a PNG with frames and captions side by side."""
    limit: int = 0
    """Take only the first N files; 0 for all."""

    def run(self) -> int:
        if not self.source.exists():
            raise UsageError(str(self.source), "does not exist")
        files = (
            sorted(path for path in self.source.rglob("*") if path.is_file())
            if self.source.is_dir()
            else [self.source]
        )
        files = [
            path for path in files if not (self.source.is_dir() and path.suffix == ".json")
        ]  # what is said of a file beside it
        files = files[: self.limit] if self.limit else files
        if not files:
            raise UsageError(str(self.source), "holds no file")
        if self.sheet and self.sheet.suffix.lower() not in {".png", ".jpg", ".webp"}:
            raise UsageError(
                f"--sheet {self.sheet}", "does not name a picture", "Give a name that ends in .png."
            )
        backend = make_captioner(self.with_)
        backend.setup()
        found: list[dict[str, Any]] = []
        rows = []
        num_failed = 0
        for path in files:
            try:
                frames, times_s, facts = file_facts(path)
            except MediaError as error:
                cli.say(f"{path}: {error}")
                num_failed += 1
                continue
            if facts["is_part"]:
                cli.say(
                    f"{path}: only the first minute is looked at; `python -m pipeline ingest` takes all of it"
                )
            try:
                [captions] = write_captions(
                    backend,
                    [ClipFrames(clip_id=path.name, frames=frames, times_s=times_s, facts=facts)],
                    self.with_.retries,
                )
            except BudgetSpentError as error:
                cli.say(f"{path} and those after it: {error}")
                num_failed += 1
                break
            if unanswered := next(
                (caption.finish_reason for caption in captions if caption.finish_reason.startswith("error")),
                "",
            ):
                cli.say(f"{path}: {unanswered}")
                num_failed += 1
            for caption in captions:
                found.append({"file": str(path), **asdict(caption)})
                if not self.json:
                    flaw = (
                        ""
                        if caption.verdict.status == "accepted"
                        else f" [{caption.verdict.status}: {'; '.join(caption.verdict.reasons)}]"
                    )
                    print(f"{path}\t{caption.kind}\t{caption.text}{flaw}")
            shown = "\n".join(
                f"{item.kind} ({item.verdict.status}): {item.text}"
                for item in captions
                if item.kind in {"short", "dense"}
            )
            rows.append((frames, f"{path.name}\n{shown}"))
        if self.json:
            cli.print_json(found)
        if self.sheet:
            contact_sheet(rows, self.sheet)
            cli.say(f"sheet: {self.sheet}")
        return cli.FAILED_ITEMS if num_failed else cli.DONE


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the project's own captioner: a base, and from it a short and a dense fork. Run the same command
    again to resume.

    Examples:
      python -m captioner train weights/captioner-tiny
      python -m captioner train OUT --stage dense --films 0 --data DATASET
      torchrun --nproc-per-node 8 -m captioner train OUT --preset coca_ViT-L-14 --init
      open_clip_weights.safetensors --films 0 --data DATASET
    """

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
    """Clips a step."""
    accumulate: int | None = None
    """Parts of a step, to save memory."""
    lr: float | None = None
    """Peak learning rate."""
    seed: int | None = None
    processes: int = 1
    """Processes on this machine that share each step; on a CPU one process of several threads is faster."""
    threads: int = 2
    """CPU threads of each process."""

    def run(self) -> int:
        if self.processes > 1:
            return run_processes(
                [sys.executable, "-m", "captioner", *without(sys.argv[1:], ("--processes",))], self.processes
            )
        import torch

        from captioner.coca.stages import STAGES, Source, settings_of, train_stages
        from learning.processes import join

        if not self.films and not self.data:
            raise UsageError(
                "--films 0 without --data", "leaves nothing to learn from", "Give --data DATASET."
            )
        if any(value is not None and value < 1 for value in (self.steps, self.batch, self.accumulate)):
            raise UsageError("--steps, --batch and --accumulate", "are at least 1")
        if self.init and not self.init.exists():
            raise UsageError(f"--init {self.init}", "does not exist")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(str(self.out), f"cannot be made: {error.strerror}") from error
        torch.set_num_threads(self.threads)
        settings = settings_of(
            self.preset,
            {
                "steps": self.steps,
                "batch": self.batch,
                "accumulate": self.accumulate,
                "lr": self.lr,
                "seed": self.seed,
            },
        )
        source = Source(films=self.films, data=self.data, view=self.view)
        command = f"python -m captioner train {self.out.name} --preset {self.preset} --films {self.films}"
        command += "".join(
            f" --{name} {value}"
            for name, value in (
                ("steps", self.steps),
                ("batch", self.batch),
                ("lr", self.lr),
                ("seed", self.seed),
            )
            if value is not None
        )
        train_stages(
            self.out,
            self.preset,
            list(STAGES) if self.stage == "all" else [self.stage],
            settings,
            source,
            self.init,
            command,
        )
        if join().rank == 0:
            print(self.out)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Fill a short prompt up to the kind of caption a model was trained on; every word of it stays.

    Examples:
      python -m captioner upsample "a red ball on a meadow"
      python -m captioner upsample "a cat" --server http://127.0.0.1:8000/v1 --model NAME
    """

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
        from captioner.commands import upsampler

        if not self.prompt.strip():
            raise UsageError("the prompt", "is empty")
        print(upsampler(self.server, self.model)(self.prompt, not self.image, self.choice))
        return cli.DONE


VERBS = {
    "caption": CaptionFiles,
    "train": Train,
    "eval": Eval,
    "upsample": Upsample,
    "compare": Compare,
    "judge": Judge,
}

if __name__ == "__main__":
    sys.exit(cli.main("python -m captioner", "Captions and language.", VERBS))
