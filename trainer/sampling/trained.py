"""A trained model as it is read for sampling; `trainer.state.export` writes it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.registry import make_text_encoder
from learning.committed import among_weights
from learning.weights import fill, read_weights
from manifests.cli import say
from manifests.errors import IntegrityError, UsageError
from manifests.fingerprint import file_sha256
from manifests.store.json_files import read_local_object
from trainer.config import LONG_DOCUMENTS, FlowConfig, ModelConfig
from trainer.config_files import strict
from trainer.data.patches import FACTORS
from trainer.model.dit import DiT
from trainer.model.layout import Layout
from trainer.model.routes import checked_route
from vae.folder import DEFAULT_WEIGHTS, weights_digest

FORMAT = "rushes-dit/1"
RECORD = "model.json"
_TIMES = 5
"""That a model is read whose weights and record do not belong together: it may be replaced just now."""


class TrainedModel:
    """A model ready to sample with.

    Attributes:
        mean, std: [C] of the latents it was trained on.
        record: what its `model.json` says.
        name, digest: of the folder it was read from; empty for one that was not.
    """

    def __init__(
        self,
        dit: DiT,
        flow: FlowConfig,
        mean: Tensor,
        std: Tensor,
        record: dict,
        name: str = "",
        digest: str = "",
    ) -> None:
        self.dit, self.flow, self.mean, self.std, self.record = dit, flow, mean, std, record
        self.name, self.digest = name, digest
        self._texts: dict[str, Tensor] = {}
        self.factors: tuple[int, int, int] = tuple(record.get("factors", FACTORS))  # type: ignore[assignment]
        self.patch, self.text_width = dit.config.patch, dit.config.text_width

    def num_tokens(self, size: Sequence[int]) -> int:
        """Tokens of latents of a size: frames, height, width."""
        return math.prod(-(-cells // side) for cells, side in zip(size, self.patch, strict=True))

    def embed(self, texts: Sequence[str]) -> list[Tensor | None]:
        """Texts [L, Dt] as the model was trained to read them; None for an empty one."""
        new = sorted({text for text in texts if text and text not in self._texts})
        if new:
            encoder = make_text_encoder(self.record["text_encoder"], self.record["text_model"])
            encoder.setup()
            self._texts |= dict(zip(new, encoder.encode(new), strict=True))
        return [self._texts.get(text) for text in texts]

    def compile(self) -> None:
        """Compile each block, for sequences of any length."""
        for block in self.dit.blocks:
            block.compile(dynamic=True)

    @property
    def device(self) -> torch.device:
        return next(self.dit.parameters()).device

    def predict(
        self,
        x: Tensor,
        sigma: Tensor,
        known: Tensor,
        coords: Tensor,
        cu: Tensor,
        text: Tensor,
        text_cu: Tensor,
    ) -> Tensor:
        """`DiT.forward` on the model's device, in bfloat16 on a GPU or where the caller computes in it (a
        training does, whose weights may be kept in it); the prediction is fp32 on the CPU.
        """
        device = self.device
        layout = Layout.of(sigma, cu, text_cu, None)  # here, where nothing waits for the device
        inputs = (part.to(device) for part in (x, sigma, known, coords, cu, text, text_cu))
        is_half = device.type == "cuda" or torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            return self.dit(*inputs, layout).float().cpu()  # type: ignore[no-any-return]


def model_folder(run: Path) -> Path:
    """The folder of the exported model of a run, of a model folder itself, or of a name under weights/.

    Raises:
        UsageError: there is none.
    """
    for folder in (run / "model", run, among_weights(run)):
        if (folder / "model.safetensors").exists() and (folder / RECORD).exists():
            return folder
    raise UsageError(
        str(run),
        "holds no exported model",
        "Train one with `rushes fit`; `rushes export-model` makes one of a checkpoint.",
    )


def chosen_vae(record: Mapping[str, Any], told: Path | str | None) -> Path | str:
    """The VAE to decode with: `told` if given, else the one that the model's record names.

    One that you chose may differ from the record's, as its decoder may have been trained further; that is
    said.

    Raises:
        UsageError: the record's is another now than the one of the model's latents; or there is none.
    """
    vae = told or str(record["vae"])
    its = record.get("vae_digest", "")
    if its and its != weights_digest(vae):
        what = f"VAE {vae or DEFAULT_WEIGHTS.name}"
        cause = "is not the one whose latents the model was trained on"
        if not told:
            raise UsageError(what, cause, "Give that one by --vae.")
        say(f"{what} {cause}: what it decodes is right only if it is of the same latents")
    return vae


def load_model(run: Path, device: str = "cpu") -> TrainedModel:
    """A model by the path or name that `model_folder` finds.

    Raises:
        UsageError: there is none.
        IntegrityError: its record is of other weights.
    """
    folder = model_folder(run)
    for _ in range(_TIMES):
        found = _loaded(folder, str(run), device)
        if found.record.get("weights", found.digest) == found.digest:
            _say_if_old(run, folder, found.record)
            return found
        time.sleep(1)  # it is being replaced
        folder = model_folder(run)
    raise IntegrityError(
        str(folder / "model.safetensors"),
        f"holds other weights than {RECORD} beside it tells of",
        "Export the model again; or, if you changed the weights, take `weights` out of the record.",
    )


def _say_if_old(run: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Say that a run has gone on since its model was made."""
    own = [path.name for path in (run / "checkpoints").glob("step-*")] if folder == run / "model" else []
    steps = [int(number) for name in own if (number := name.removeprefix("step-")).isdigit()]
    if (step := record.get("step")) is not None and max(steps, default=0) > step:
        say(
            f"{folder}: is of step {step}, and {run} has a checkpoint of step {max(steps)}; "
            f"`rushes export-model {run} --overwrite` makes a model of that"
        )


def _loaded(folder: Path, name: str, device: str) -> TrainedModel:
    record = read_local_object(
        folder / RECORD, keys=("format", "model", "flow", "latent_mean", "latent_std", "text_encoder", "vae")
    )
    if record.get("format") != FORMAT:
        raise UsageError(str(folder), f"has format {record.get('format')}, this sampler knows {FORMAT}")
    config, flow = sizes_in(record, folder / RECORD)
    dit = DiT(config)
    weights = read_weights(folder / "model.safetensors")
    fill(dit, {name: value.float() for name, value in weights.items()}, folder / "model.safetensors")
    dit.to(device).eval().requires_grad_(False)
    heads = dit.config.num_heads
    dit.long_from = checked_route(torch.device(device), heads, dit.config.width // heads, LONG_DOCUMENTS)
    mean, std = torch.tensor(record["latent_mean"]), torch.tensor(record["latent_std"]).clamp_min(1e-4)
    digest = file_sha256(folder / "model.safetensors")[:16]
    return TrainedModel(dit, flow, mean, std, record, name, digest)


def sizes_in(record: Mapping[str, Any], path: Path) -> tuple[ModelConfig, FlowConfig]:
    """The sizes and the objective that a model's record tells of.

    Raises:
        UsageError: it is damaged, or of a version with other settings.
    """
    config = strict(ModelConfig, record["model"], str(path), "model.")
    flow = strict(FlowConfig, record["flow"], str(path), "flow.")
    for name in ("latent_mean", "latent_std"):
        found = record[name]
        is_whole = isinstance(found, list) and len(found) == config.latent_channels
        if not (is_whole and all(_is_number(value) for value in found)):
            raise UsageError(
                str(path),
                f"has {name} {found!r}",
                f"It must be {config.latent_channels} numbers, one a channel.",
            )
    phrases = record.get("phrases") or {"camera": [], "light": []}
    if not isinstance(phrases, Mapping) or not {"camera", "light"} <= phrases.keys():
        raise UsageError(str(path), f"has phrases {phrases!r}", "It must have lists of camera and light.")
    for name in ("text_encoder", "vae"):
        if not isinstance(record[name], str):
            raise UsageError(str(path), f"has {name} {record[name]!r}", "It must be a name or a folder.")
    return config, flow


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # of hundreds of digits
        return False
