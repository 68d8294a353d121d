"""Verbs on a trained model: `sample`, `report`, `export-model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from manifests import cli
from manifests.errors import UsageError
from manifests.store.json_files import parse_lines
from trainer.config import check_ranges


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make a video (.mp4, .webm) or an image (.png) of any size from a prompt.

    Beside a video lies a PNG sheet of its frames (NAME.sheet.png).

    Examples:
      rushes sample RUN --prompt "a red ball moves right" --width 176 --height 112 --out ball.webm
      rushes sample RUN --prompt "a blue star in the desert" --frames 1 --out star.png
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`, or an exported model folder."""
    out: Path
    """File to write."""
    prompt: str = ""
    """What to show."""
    upsample: bool = False
    """Fill the prompt up to the kind of caption the model was trained on (`rushes upsample`); every word
    stays."""
    width: int = 128
    """Pixels."""
    height: int = 96
    """Pixels."""
    frames: int = 25
    """Frames; 1 for an image."""
    fps: float = 12.0
    """Frames per second."""
    steps: int = 24
    """Solver steps."""
    guidance: float = 3.0
    """Weight of classifier-free guidance; 1 turns it off."""
    solver: Literal["euler", "heun"] = "heun"
    """ODE solver."""
    seed: int = 0
    """Of the noise: the same seed gives the same sample."""
    device: str = ""
    """Device of the model, such as cuda or cpu; a GPU where there is one if left out. The VAE decodes on the
    CPU."""
    vae: Path | None = None
    """Folder of the VAE; that of the training data if left out."""
    overwrite: bool = False
    """Replace files that exist."""

    def run(self) -> int:
        sheet = self._check()
        import torch

        from trainer.sampling.sample import Canvas, sample_latent, to_frames
        from trainer.sampling.trained import load_model
        from vae.checkpoint import load_vae
        from vae.folder import DEFAULT_WEIGHTS

        trained = load_model(self.run_folder, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        canvas = Canvas(num_frames=self.frames, height_px=self.height, width_px=self.width, fps=self.fps)
        latent = sample_latent(
            trained,
            canvas,
            self._full_prompt(),
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            solver=self.solver,
        )
        vae = load_vae(self.vae or trained.record["vae"] or DEFAULT_WEIGHTS)
        self._write(to_frames(vae, latent, canvas).numpy(), sheet)
        return cli.DONE

    def _check(self) -> Path | None:
        """Refuse what cannot be made, before any work. Returns the sheet's path; None for an image."""
        check_ranges(
            "--",
            self,
            {
                **dict.fromkeys(("width", "height", "frames", "steps"), (1, 1 << 20, True)),
                "fps": (0.1, 1000, True),
                "guidance": (0, 1000, True),
            },
        )
        if self.out.suffix not in {".mp4", ".webm", ".png"} or (self.out.suffix == ".png") != (
            self.frames == 1
        ):
            raise UsageError(
                str(self.out),
                f"cannot hold {self.frames} frames",
                "Use .png with --frames 1, else .mp4 or .webm.",
            )
        sheet = self.out.with_suffix(".sheet.png") if self.frames > 1 else None
        cli.check_new(self.out, sheet, is_overwriting=self.overwrite)
        return sheet

    def _full_prompt(self) -> str:
        """The prompt, filled up if that was asked for."""
        if not self.upsample or not self.prompt:
            return self.prompt
        from captioner.registry import make_upsampler

        prompt = make_upsampler()(self.prompt, self.frames > 1)
        cli.say(f"prompt: {prompt}")
        return prompt

    def _write(self, frames: np.ndarray, sheet: Path | None) -> None:
        """Write the file, and six frames side by side.

        Args:
            frames: [T, H, W, 3] uint8.
        """
        from media.decode.images import encode_png
        from media.writer import write_video

        if sheet is None:
            cli.with_folder(self.out).write_bytes(encode_png(frames[0]))
        else:
            write_video(
                cli.with_folder(self.out), frames, self.fps, "vp9" if self.out.suffix == ".webm" else "h264"
            )
            picks = frames[np.linspace(0, len(frames) - 1, min(6, len(frames))).astype(int)]
            sheet.write_bytes(encode_png(np.concatenate(list(picks), axis=1)))
            print(sheet)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Validation loss before and after, by shape class, beside two baselines.

    The baselines: predicting the mean velocity, and reading another clip's captions.

    Example: rushes report RUN
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        path = self.run_folder / "validation.jsonl"
        if not path.exists():
            raise UsageError(str(self.run_folder), "holds no run", "Train one with `rushes fit`.")
        rows = parse_lines(path.read_bytes(), str(path), "Delete the line.", ("step", "scores"))
        if not rows:
            raise UsageError(str(path), "has no validation yet", "Let the run go on.")
        if self.json:
            cli.print_json(rows)
            return cli.DONE
        first, last = rows[0], rows[-1]
        before, after = f"loss at step {first['step']}", f"loss at step {last['step']}"
        header = ["shape class", before, after, "with other captions", "so much worse", "mean velocity"]
        table = []
        for name, scores in last["scores"].items():
            worse = f"{scores['shuffled'] / scores['loss'] - 1:+.2%}"
            start = first["scores"][name]["loss"]
            table.append([name, start, scores["loss"], scores["shuffled"], worse, scores["baseline"]])
        cli.print_table("validation", header, table)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Make a model to sample from, of the checkpoint of a run that was stopped, or of an earlier step.

    Example: rushes export-model RUN --step 20000 --out RUN/model-20000
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`."""
    step: int | None = None
    """Of which step; the newest if left out."""
    ema: float | None = None
    """Decay of the average to take; the run's first if left out."""
    out: Path | None = None
    """Folder to write; RUN/model if left out."""
    overwrite: bool = False
    """Replace a model that exists."""

    def run(self) -> int:
        from trainer.state.export import export_checkpoint

        out = self.out or self.run_folder / "model"
        cli.check_new(out / "model.safetensors", is_overwriting=self.overwrite)
        cli.say(f"export: from {export_checkpoint(self.run_folder, self.step, self.ema, out)}")
        print(out)
        return cli.DONE
