"""Sheets of samples while training: held-out clips beside samples of their captions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image

from captioner.judging.sheet import contact_sheet
from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.runs.events import ingest_settings
from manifests.store import storage
from manifests.tables import scans
from manifests.views import View
from media.writer import webm_bytes
from trainer.config import FitConfig
from trainer.data.catalogue.catalog import Catalog
from trainer.data.loader import PackReader
from trainer.data.samples import Sample
from trainer.model.dit import DiT
from trainer.reports.efficiency import shape_classes
from trainer.sampling.canvas import Canvas
from trainer.sampling.decoding import to_frames
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.guidance import Guidance
from trainer.sampling.trained import TrainedModel, chosen_vae
from trainer.state.parallel import Ranks, reshard
from vae.checkpoint import load_vae

ROWS = 4
HOW = Sampling(steps=20, guidance=Guidance(text=2.0))


def keep(path: Path, frames: np.ndarray, fps: float, record: dict[str, Any]) -> None:
    """One sample [T, H, W, 3] as a file to look at, a PNG where it is one frame, and what it is beside it."""
    name = path.name + (".png" if len(frames) == 1 else ".webm")
    if len(frames) == 1:
        data = io.BytesIO()
        Image.fromarray(frames[0]).save(data, "PNG")
        encoded = data.getvalue()
    else:
        encoded = webm_bytes(list(frames), [index / fps for index in range(len(frames))])
    storage.write_local(path.with_name(name), encoded)
    storage.write_local(path.with_name(f"{path.name}.json"), json.dumps({"file": name, **record}).encode())


def sheet_path(out: Path, step: int) -> Path:
    """Where the sheet of a step lies in a run."""
    return out / "samples" / f"step-{step:08d}.png"


class Sheets:
    """Makes `samples/step-<n>.png`: first and last frame of a clip, then of a sample, in each row.

    Each sample is also a file of its own in `samples/step-<n>/`.
    """

    def __init__(
        self,
        dataset: Dataset,
        view: View,
        catalog: Catalog,
        reader: PackReader,
        config: FitConfig,
        out: Path,
        ranks: Ranks,
    ) -> None:
        self.dataset, self.view, self.catalog, self.reader, self.config, self.out, self.ranks = (
            dataset,
            view,
            catalog,
            reader,
            config,
            out,
            ranks,
        )
        self.chosen = self._choose()

    def _choose(self) -> list[Sample]:
        """Held-out clips that fit the budget, of as many shapes as there are."""
        patch, found = self.config.model.patch, dict[tuple[str, ...], Sample]()
        fitting = [sample for sample in self.catalog.held_out if sample.tokens(patch) <= self.config.tokens]
        for sample in fitting:
            found.setdefault(shape_classes(sample)[:1], sample)
        return (list(found.values()) + [sample for sample in fitting if sample not in found.values()])[:ROWS]

    def make(self, ema: DiT, step: int, is_stopped: Callable[[], bool] = lambda: False) -> Path | None:
        """Every process must call; the first writes.

        Args:
            is_stopped: asked between samples, of all processes alike: whether the run has no time for more.

        Returns None where there is none: no held-out clip fits a pack, the VAE of the latents is not at hand
        here, or something went wrong, which is told and ends nothing.
        """
        if not self.chosen:
            self._none("no held-out clip fits --tokens")
            return None
        rows = []
        # each process computes the same samples, so that sharded weights can be asked for by all
        ema.share_sequence(None)
        try:
            for sample in self.chosen:
                if is_stopped():
                    return None
                rows.append(self._sampled(ema, sample))
            return self._drawn(rows, step) if self.ranks.is_first else None
        except Exception as error:
            if self.ranks.size > 1 and len(rows) < len(self.chosen):
                raise  # the others are in the middle of it, and would wait for this one
            self._none(f"{type(error).__name__}: {error}")
            return None
        finally:
            ema.share_sequence(self.ranks.sequence)
            reshard(ema)

    def _none(self, why: str) -> None:
        if self.ranks.is_first:
            say(f"fit: no sheet of samples: {why}")

    def _drawn(self, rows: list[tuple[torch.Tensor, Canvas, str]], step: int) -> Path:
        """The sheet of what was sampled."""
        name = ingest_settings(self.dataset, self.view.columns.values())["vae"]
        vae = load_vae(chosen_vae({"vae": name, "vae_digest": self.catalog.vae}, None))
        drawn, words = [], self._words([caption_id for _, _, caption_id in rows])
        folder = self.out / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for sample, (latent, canvas, caption_id) in zip(self.chosen, rows, strict=True):
            truth = to_frames(vae, self._stored(sample), canvas).numpy()
            made = to_frames(vae, latent, canvas).numpy()
            record = {"step": step, "clip_id": sample.clip_id, "prompt": words.get(caption_id, "")}
            keep(folder / sample.clip_id, made, canvas.fps, record | {"sampling": asdict(HOW)})
            drawn.append(
                (
                    [truth[0], truth[-1], made[0], made[-1]],
                    f"clip {sample.clip_id} | sample\n{words.get(caption_id, '')}",
                )
            )
        path = sheet_path(self.out, step)
        contact_sheet(drawn, path)
        return path

    def _sampled(self, ema: DiT, sample: Sample) -> tuple[torch.Tensor, Canvas, str]:
        row = self.reader.row_of(sample)
        size = {name: row[name] for name in ("num_frames", "height_px", "width_px")}
        canvas = Canvas(**size, fps=row["fps"] or 1.0)
        try:
            caption_id, text = self.reader.text_of(sample, "dense")
        except (
            RushesError,
            OSError,
            KeyError,
        ) as error:  # a damaged clip costs its words on the sheet, not the run
            say(
                f"fit: the caption of held-out clip {sample.clip_id} cannot be read ({error}); it is "
                "sampled without"
            )
            caption_id, text = "", torch.zeros(1, self.catalog.text_width)
        record = {"factors": self.catalog.factors}
        trained = TrainedModel(
            ema,
            self.config.flow,
            torch.tensor(self.catalog.mean),
            torch.tensor(self.catalog.std).clamp_min(1e-4),
            record,
        )
        request = Request(canvas=canvas, prompts=(Prompt(text),))
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.is_bf16):
            return generate(trained, [request], HOW)[0], canvas, caption_id

    def _stored(self, sample: Sample) -> torch.Tensor:
        """The latent's mean in the VAE's own units, [C, t, h, w]."""
        return self.reader.stored(sample)[0]

    def _words(self, caption_ids: list[str]) -> dict[str, str]:
        """Captions by id."""
        fields, where = ["caption_id", "text"], pc.field("caption_id").isin(caption_ids)
        table = scans.table(self.dataset, "captions", self.view.column("caption"), fields, where)
        return {row["caption_id"]: row["text"] for row in table.to_pylist()}
