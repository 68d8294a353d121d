"""The verb `evaluate`: how much of its prompts a model shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from manifests import cli
from manifests.cli.ranges import COUNT, SEED, Ranges
from manifests.errors import UsageError
from manifests.store import storage
from manifests.store.json_files import read_local_object

if TYPE_CHECKING:
    from trainer.judging.run import Judged
    from trainer.sampling.draft import Sampling
    from trainer.sampling.trained import TrainedModel
    from vae.protocol import VAE

SHEET_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How much of held-out prompts of the film world a model shows, read back by an exact reader.

    By attribute, beside true renders, VAE round trips and chance, at shapes seen in training and not.

    Example: rushes evaluate dit-tiny --prompts 200 --out evaluation
    """

    essential: ClassVar[tuple[str, ...]] = ("model_folder", "out", "prompts", "scale", "features", "json")
    ranges: ClassVar[Ranges] = {
        "prompts": (2, 100_000, True),
        "scale": (0.1, 100, True),
        "minute_s": (0, 3600, True),
        "steps": (1, 10_000, True),
        "guidance": (0, 1000, True),
        "seed": SEED,
        "batch_tokens": COUNT,
        "threads": (0, 4096, True),
    }

    model_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`, exported model, or a name under weights/."""
    out: Path | None = None
    """Folder for the report (JSON) and sheets of the best and worst samples."""
    prompts: int = 200
    """Held-out prompts; half of them at shapes, lengths and rates that no film of the world has."""
    scale: float | None = None
    """Factor on the world's picture sizes, as in `rushes make-films --scale`; left out: that of the films the
    model was trained on, where its `model.json` says it, else 0.75."""
    features: bool = True
    """Whether each feature is measured too: kept frames, joints, seams, edits."""
    fvd: Path | None = None
    """Weights of I3D on RGB and Kinetics-400 (rgb_imagenet.pt, i3d_pretrained_400.pt, or safetensors): then
    the report has FVD over the samples of at least 16 frames."""
    minute_s: float = 60.0
    """Seconds of the long video whose drift is measured; 0 for none."""
    steps: int = 24
    """Solver steps."""
    solver: Literal["euler", "heun", "dpm++2m"] = "dpm++2m"
    """ODE solver."""
    guidance: float = 3.0
    """Weight of the text."""
    seed: int = 0
    """Of the questions and of the noise."""
    batch_tokens: int = 16384
    """Tokens the model reads at once."""
    device: str = ""
    """Such as cuda or cpu; a GPU where there is one if left out."""
    vae: Path | None = None
    """Folder of the VAE; that of the training data if left out."""
    threads: int = 0
    """CPU threads; torch's choice if 0."""
    json: bool = False
    """Print the report as JSON."""
    overwrite: bool = False
    """Replace a report that exists."""

    def run(self) -> int:
        sheets = self._sheets()
        path = self.out / "evaluation.json" if self.out else None
        begun = self._begun(path)
        if begun is None:
            cli.check_new(path, *sheets, is_overwriting=self.overwrite)
        from trainer.judging import i3d
        from trainer.judging.cases import cases, world_scale
        from trainer.judging.run import check_fvd, finite, judge, report

        network = i3d.load(self.fvd) if self.fvd else None
        model, vae, how = self._opened()
        scale = world_scale(model.record) if self.scale is None else self.scale
        cli.say(f"evaluate: pictures at {scale:g} of the world's sizes (--scale)")
        asked = self._asked(model, scale)
        if begun is not None:
            kept = {"fvd": self.fvd is not None} | {name: asked[name] for name in asked if name != "vae"}
            there = begun | {"fvd": "fvd" in begun}
            if others := sorted(name for name in kept if kept[name] != there.get(name)):
                step = "Name another folder, or add --overwrite."
                raise UsageError(str(path), f"was begun with other settings ({', '.join(others)})", step)
        if begun is None or begun.get("has_sheets") is False:  # it died in the midst of them
            questions = cases(self.prompts, scale, seed=self.seed)
            if network is not None:
                check_fvd(questions)
            judged = judge(model, vae, questions, how, self.batch_tokens, self.seed, network)
            found = {**asked, "is_whole": not self.features, **finite(report(judged))}
            if self.out:
                self.out.mkdir(parents=True, exist_ok=True)
                # the sheets may meet a full disk
                self._write(found | {"is_whole": False, "has_sheets": False})
                _sheets(judged, self.out)
            self._write(found)  # what is found so far is not lost with what follows
        else:
            found = begun
            cli.say(f"{path}: its samples were read before; what is missing are the features")
            if not self.features:
                self._write(found := found | {"is_whole": True})
        if not self.json:
            _print_accuracy(found)
        if self.features:
            from trainer.judging.features import FeatureJudge

            own = FeatureJudge(model, vae, how, scale, seed=self.seed)
            found |= {"features": finite(own.all(self.minute_s)), "is_whole": True}
            self._write(found)
            if not self.json:
                _print_features(found["features"])
        if self.json:
            cli.print_json(found)  # alone: programs read it
        elif self.out:
            print(self.out)
        return cli.DONE

    def _sheets(self) -> list[Path]:
        return [self.out / name for name in ("best.png", "worst.png")] if self.out else []

    def _begun(self, path: Path | None) -> dict[str, Any] | None:
        """What an evaluation found that was stopped before its sheets or its features."""
        if path is None or self.overwrite or not path.exists():
            return None
        found = read_local_object(path)
        return found if found.get("is_whole") is False else None

    def _asked(self, model: TrainedModel, scale: float) -> dict[str, Any]:
        """What figures depend on."""
        from manifests.fingerprint import file_sha256
        from trainer.sampling.trained import chosen_vae
        from vae.folder import weights_digest

        vae = str(chosen_vae(model.record, self.vae))
        return ({"fvd_weights": file_sha256(self.fvd)} if self.fvd else {}) | {
            "model": model.name,
            "model_digest": model.digest,
            "vae": vae,
            "vae_digest": weights_digest(vae),
            "device": model.device.type,
            "prompts": self.prompts,
            "steps": self.steps,
            "solver": self.solver,
            "guidance": self.guidance,
            "scale": scale,
            "seed": self.seed,
        }

    def _opened(self) -> tuple[TrainedModel, VAE, Sampling]:
        import torch

        from learning.devices import chosen_device
        from trainer.sampling.draft import Sampling
        from trainer.sampling.guidance import Guidance
        from trainer.sampling.trained import chosen_vae, load_model
        from vae.checkpoint import load_vae

        if self.threads:
            torch.set_num_threads(self.threads)
        model = load_model(self.model_folder, chosen_device(self.device))
        guidance = Guidance(text=self.guidance)
        how = Sampling(steps=self.steps, solver=self.solver, guidance=guidance)
        return model, load_vae(chosen_vae(model.record, self.vae)), how

    def _write(self, found: dict[str, Any]) -> None:
        if self.out:
            text = json.dumps(found, indent=1) + "\n"
            storage.write_local(self.out / "evaluation.json", text.encode())


def _print_accuracy(found: dict[str, Any]) -> None:
    for group, scores in found["accuracy"].items():
        names = ("samples", "round trips", "true renders", "chance")
        rows = [
            [attribute, *(_shown(scores[name][attribute], name == "samples") for name in names)]
            for attribute in scores["samples"]
        ]
        cli.print_table(f"{group}: share of attributes as asked for", ["attribute", *names], rows)
    distance = found["frechet_captioner_tiny"]
    told = "not finite" if distance is None else f"{distance:.4f}"
    cli.say(f"Frechet distance over the captioner's features: {told}")
    if found.get("fvd") is not None:
        cli.say(f"FVD: {found['fvd']:.1f}, over {found['fvd_films']} samples; few samples make it higher")


def _print_features(found: dict[str, dict[str, float | None]]) -> None:
    rows = [
        [feature, name, round(value, 3)]
        for feature, values in found.items()
        for name, value in values.items()
        if value is not None
    ]
    cli.print_table("features", ["feature", "measure", "value"], rows)


def _shown(score: dict[str, Any], is_whole: bool) -> str:
    if score["value"] is None:
        return ""
    return (
        f"{score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
        if is_whole
        else f"{score['value']:.2f}"
    )


def _sheets(judged: Judged, out: Path) -> None:
    """The best and the worst samples with their prompts, beside the world's own renders."""
    from captioner.judging.sheet import contact_sheet

    order = sorted(range(len(judged.cases)), key=lambda index: -judged.answers["samples"][index].share)
    for name, chosen in (("best", order[:SHEET_ROWS]), ("worst", order[-SHEET_ROWS:])):
        rows = []
        for index in chosen:
            own = judged.answers["samples"][index]
            wrong = ", ".join(key for key, is_right in own.right.items() if not is_right) or "nothing"
            text = f"render | sample; wrong: {wrong}\n{judged.cases[index].prompt}"
            rows.append(([picture.numpy() for picture in judged.ends[index]], text))
        contact_sheet(rows, out / f"{name}.png")
