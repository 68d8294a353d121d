"""`python -m trainer plan | measure | fit | export | sample | report`: train a DiT on a dataset's latents and
sample from it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from manifests import cli
from manifests.errors import UsageError
from trainer.planning import Measure, Plan
from trainer.training import Fit


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Make a video (.mp4, .webm) or an image (.png) of any size from a prompt. Beside a video, a PNG sheet of
    its frames.

    Examples:
      python -m trainer sample RUN --prompt "a red ball moves from left to right" --width 176 --height 112
      --frames 25 --out ball.webm
      python -m trainer sample RUN --prompt "a blue star in the desert" --width 144 --height 200 --frames 1
      --out star.png
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`, or an exported model folder."""
    out: Path
    """File to write."""
    prompt: str = ""
    """What to show."""
    upsample: bool = False
    """Fill the prompt up to the kind of caption the model was trained on (`python -m captioner upsample`);
    every word of it stays."""
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
    """Classifier-free guidance; 1 turns it off."""
    solver: Literal["euler", "heun"] = "heun"
    """ODE solver."""
    seed: int = 0
    device: str = ""
    """Device of the model, such as cuda or cpu; a GPU where there is one if left out. The VAE decodes on the
    CPU."""
    vae: Path | None = None
    """Folder of the VAE; that of the training data if left out."""

    def run(self) -> int:
        import torch

        from captioner.commands import upsampler
        from media.decode.images import encode_png
        from media.writer import write_video
        from trainer.sampling.sample import Canvas, sample_latent, to_frames
        from trainer.sampling.trained import load_model
        from vae import DEFAULT_WEIGHTS, load_vae

        if min(self.width, self.height, self.frames, self.steps) < 1:
            raise UsageError("--width, --height, --frames, --steps", "must be 1 or more")
        if self.out.suffix not in {".mp4", ".webm", ".png"} or (self.out.suffix == ".png") != (
            self.frames == 1
        ):
            raise UsageError(
                str(self.out),
                f"cannot hold {self.frames} frames",
                "Use .png with --frames 1, else .mp4 or .webm.",
            )
        trained = load_model(self.run_folder, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        canvas = Canvas(num_frames=self.frames, height_px=self.height, width_px=self.width, fps=self.fps)
        prompt = upsampler()(self.prompt, self.frames > 1) if self.upsample and self.prompt else self.prompt
        if prompt != self.prompt:
            cli.say(f"prompt: {prompt}")
        latent = sample_latent(
            trained,
            canvas,
            prompt,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            solver=self.solver,
        )
        frames = to_frames(
            load_vae(self.vae or trained.record["vae"] or DEFAULT_WEIGHTS), latent, canvas
        ).numpy()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.frames == 1:
            self.out.write_bytes(encode_png(frames[0]))
        else:
            write_video(self.out, frames, self.fps, "vp9" if self.out.suffix == ".webm" else "h264")
            picks = frames[np.linspace(0, len(frames) - 1, min(6, len(frames))).astype(int)]
            sheet = self.out.with_suffix(".png")
            sheet.write_bytes(encode_png(np.concatenate(list(picks), axis=1)))
            print(sheet)
        print(self.out)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Report:
    """Loss before and after, by shape class, beside predicting the mean velocity and beside shuffled
    captions.

    Example: python -m trainer report RUN
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        path = self.run_folder / "validation.jsonl"
        if not path.exists():
            raise UsageError(str(self.run_folder), "holds no run", "Train one with `python -m trainer fit`.")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if self.json:
            cli.print_json(rows)
            return cli.DONE
        first, last = rows[0], rows[-1]
        table = [
            [
                name,
                first["scores"][name]["loss"],
                scores["loss"],
                scores["shuffled"],
                f"{scores['shuffled'] / scores['loss'] - 1:+.2%}",
                scores["baseline"],
            ]
            for name, scores in last["scores"].items()
        ]
        cli.print_table(
            "validation",
            [
                "shape class",
                f"loss at step {first['step']}",
                f"loss at step {last['step']}",
                "with other captions",
                "so much worse",
                "mean velocity",
            ],
            table,
        )
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Make a model to sample from of a checkpoint: of a run that was stopped or killed, or of an earlier
    step.

    Example: python -m trainer export RUN --step 20000 --out RUN/model-20000
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`."""
    step: int | None = None
    """Of which step; the newest if left out."""
    ema: float | None = None
    """Decay of the average to take; the run's first if left out."""
    out: Path | None = None
    """Folder to write; RUN/model if left out."""

    def run(self) -> int:
        from trainer.state.export import export_checkpoint

        out = self.out or self.run_folder / "model"
        cli.say(f"export: from {export_checkpoint(self.run_folder, self.step, self.ema, out)}")
        print(out)
        return cli.DONE


VERBS = {"plan": Plan, "measure": Measure, "fit": Fit, "export": Export, "sample": Sample, "report": Report}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            "python -m trainer", "Train a diffusion transformer on a dataset's latents, and sample.", VERBS
        )
    )
