"""The training loop: one process, exact to resume. To resume, run the same command again.

A step is one integer; what it reads, the noise it adds and the captions it draws follow from (seed, step). Ctrl-C and SIGTERM finish the step
in hand, save, and end.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from captioner.mixing import realised
from manifests.cli import say
from manifests.errors import UsageError
from manifests.fingerprint import canonical_json
from manifests.layout import Dataset
from manifests.views import View
from trainer.catalog import Catalog, load_catalog
from trainer.checkpoints import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from trainer.config import FitConfig, load_config, save_config
from trainer.dit import DiT, count_parameters
from trainer.evaluate import evaluate, validation_packs
from trainer.export import save_model
from trainer.flow import NoisyPack, lr_at
from trainer.loader import Loader, Pack, PackReader
from trainer.packs import PlanStream, SampleTable, pack_settings

EVERY_S = 10.0


class Stop:
    """Set by SIGINT or SIGTERM; the loop looks at it between steps."""

    signal_name = ""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second one interrupts at once."""
    stop = Stop()

    def wish(number: int, _frame: object) -> None:
        if stop.signal_name:
            raise KeyboardInterrupt
        stop.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RunLog:
    """`metrics.jsonl` and `consumed.jsonl` of a run. On resume, lines past the checkpoint are cut off: they will be written again."""

    def __init__(self, folder: Path, from_step: int) -> None:
        self._files = {}
        for name in ("metrics", "consumed"):
            path = folder / f"{name}.jsonl"
            lines = (
                [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] < from_step]
                if path.exists()
                else []
            )
            path.write_text("".join(f"{line}\n" for line in lines))
            self._files[name] = open(path, "a", buffering=1)  # noqa: SIM115 - closed by close()

    def write(self, name: str, row: dict) -> None:
        self._files[name].write(json.dumps(row) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def plan_stream(catalog: Catalog, config: FitConfig) -> PlanStream:
    return PlanStream(SampleTable.of(catalog.samples), pack_settings(config))


def run_digest(catalog: Catalog, config: FitConfig) -> str:
    """What a checkpoint must agree on to be resumed: the data and all that decides the order and the noise; not the number of steps."""
    settings = {key: value for key, value in asdict(config).items() if key not in {"steps", "save_every", "keep", "cooldown", "max_corrupt"}}
    return hashlib.sha256((catalog.digest + canonical_json(settings)).encode()).hexdigest()[:16]


def train_step(model: DiT, packs: list[Pack], config: FitConfig, step: int, device: torch.device) -> tuple[float, float]:
    """Forward and backward of one step. Returns the loss per valid value and the number of valid values."""
    noisy = [NoisyPack(pack, config.flow, salt=step) for pack in packs if pack.num_tokens]
    total = sum(float(item.weight.sum()) for item in noisy)
    loss_sum = 0.0
    for item in noisy:
        pack = item.pack
        velocity = model(*(value.to(device) for value in (item.x, item.sigma, item.known, pack.coords, pack.cu, pack.text, pack.text_cu)))
        loss = item.error(velocity.cpu()).sum() / max(total, 1.0)
        loss.backward()
        loss_sum += loss.item()
    return loss_sum, total


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], model: DiT, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        ema[name].lerp_(value, 1 - decay)


def fit(dataset: Dataset, view_name: str, config: FitConfig, out: Path) -> int:
    """`fit_until` with SIGINT and SIGTERM turned into a wish to stop, from the first line to the last."""
    with stop_on_signals() as stop:
        return fit_until(dataset, view_name, config, out, stop)


def fit_until(dataset: Dataset, view_name: str, config: FitConfig, out: Path, stop: Stop) -> int:
    """Train up to `config.steps` and export the model. Returns the number of steps done.

    Raises:
        UsageError: `out` holds a run with other settings, or the data does not fit the model.
        Interrupted: `stop` was wished for; the run has saved itself.
    """
    view = View.load(dataset, view_name)
    catalog = load_catalog(dataset, view, config.held_out)
    config = replace(config, model=replace(config.model, latent_channels=catalog.latent_channels, text_width=catalog.text_width))
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "config.json"
    if saved.exists() and run_digest(catalog, load_config(saved)) != run_digest(catalog, config):
        raise UsageError(str(out), "holds a run with other settings or other data", "Give another --out, or the same settings to resume.")
    save_config(config, saved)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    model = DiT(config.model).to(device)
    ema = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    digest, step = run_digest(catalog, config), 0
    if checkpoints := list_checkpoints(out / "checkpoints"):
        step = load_checkpoint(checkpoints[-1], model, ema, optimizer, digest).step
        say(f"fit: resumed after step {step} from {checkpoints[-1]}")
    plan, reader = plan_stream(catalog, config), PackReader(dataset, catalog, config)
    validation = validation_packs(reader, catalog.held_out, config.tokens)
    say(
        f"fit: {count_parameters(model) / 1e6:.2f} M parameters, {len(catalog.samples)} samples, {len(catalog.held_out)} held out, {config.tokens} tokens a pack"
    )
    log = RunLog(out, step)
    before = _validate(out, model, ema, validation, config, step) if step == 0 else None
    try:
        step = _loop(model, ema, optimizer, Loader(reader, plan), config, out, digest, step, log, device, stop)
    except Interrupted:
        save_model(out / "model", ema, config, catalog, view, dataset)  # one may sample from a run that was stopped
        raise
    finally:
        log.close()
    after = _validate(out, model, ema, validation, config, step)
    save_model(out / "model", ema, config, catalog, view, dataset)
    if before:
        say(
            f"fit: validation loss {before['all']['loss']:.4f} before, {after['all']['loss']:.4f} after; mean velocity {after['all']['baseline']:.4f}"
        )
    return step


def _loop(
    model: DiT, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer, loader: Loader, config: FitConfig, out: Path, digest: str, step: int,
    log: RunLog, device: torch.device, stop: Stop,
) -> int:  # fmt: skip
    model.train()
    told_s, begin, tokens_done = 0.0, time.monotonic(), 0
    drawn: Counter[str] = Counter()

    def save(done: int) -> None:
        save_checkpoint(out / "checkpoints", model, ema, optimizer, TrainState(done, digest), config.keep)

    for number, epoch, packs in loader.steps_from(step):
        if number >= config.steps or stop.signal_name:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr_at(number, config.steps, config.lr, config.warmup_steps, config.cooldown)
        loss, valid = train_step(model, packs, config, number, device)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
        if math.isfinite(norm):
            optimizer.step()
        else:
            say(f"fit: step {number} skipped, gradient is not finite")
        optimizer.zero_grad(set_to_none=True)
        update_ema(ema, model, config.ema_decay, number)
        step = number + 1
        tokens = sum(pack.num_tokens for pack in packs)
        tokens_done += tokens
        kinds = Counter(kind for pack in packs for kind in pack.kinds)
        drawn += kinds
        shapes = sorted({"x".join(map(str, grid)) for pack in packs for grid in pack.shapes})
        log.write(
            "metrics",
            {
                "step": number,
                "epoch": epoch,
                "loss": loss,
                "grad_norm": norm,
                "tokens": tokens,
                "valid": valid,
                "shapes": len(shapes),
                "captions": dict(kinds),
            },
        )
        log.write(
            "consumed",
            {"step": number, "epoch": epoch, "rank": 0, "samples": [[item.clip_id, item.shard] for pack in packs for item in pack.samples]},
        )
        if number == 0:
            say(
                f"fit: the first pack holds {sum(len(pack.samples) for pack in packs)} samples of {len(shapes)} distinct shapes (t x h x w in tokens): {', '.join(shapes)}"
            )
        if time.monotonic() - told_s > EVERY_S or step == config.steps:
            told_s = time.monotonic()
            say(f"fit: step {step}/{config.steps} epoch {epoch} loss {loss:.4f} {tokens_done / (told_s - begin):.0f} tokens/s")
        if step % config.save_every == 0 or step == config.steps:
            save(step)
    if drawn:
        say(f"fit: captions drawn: {realised(drawn)}")
    if stop.signal_name:
        save(step)
        say(f"fit: {stop.signal_name}: saved after step {step}; run the same command to go on")
        raise Interrupted(stop.signal_name)
    return step


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop and has saved itself."""


def _validate(out: Path, model: DiT, ema: dict[str, Tensor], packs: list[Pack], config: FitConfig, step: int) -> dict[str, dict[str, float]]:
    """Evaluate the averaged weights and append to `validation.jsonl`."""
    averaged = DiT(config.model)
    averaged.load_state_dict({name: value.cpu() for name, value in ema.items()})
    scores = evaluate(averaged, packs, config.flow)
    with open(out / "validation.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "scores": scores}) + "\n")
    return scores
