"""Settings in files and on the command line: saved, read strictly, compared, set by dotted names."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from manifests.errors import UsageError
from manifests.store import storage
from manifests.store.json_files import read_local_object
from trainer.config import LATER, RUN_ONLY, FitConfig, FlowConfig, ModelConfig, StageConfig

Changes = dict[str, tuple[Any, Any]]
"""Old and new value of settings, by dotted name."""
_STAGES_HINT = 'Write a list such as [{"steps": 1000, "max_s": 2}, {}].'


_OF_DATA = frozenset({"model.latent_channels", "model.text_width"})
"""Settings that are known when the data has been read."""


def strict(kind: type, values: Any, where: str, prefix: str = "") -> Any:
    """A dataclass from what a JSON file says, each setting of its type.

    Args:
        where: the file, for errors.
        prefix: of the settings' names, for errors.

    Raises:
        UsageError: a setting is unknown or of another type.
    """
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "settings"
        raise UsageError(where, f"has {name} {values!r}", f"Give settings of {kind.__name__} by their names.")
    known, kinds = {item.name: str(item.type) for item in fields(kind)}, get_type_hints(kind)
    if unknown := set(values) - set(known):
        raise UsageError(
            where, f"has unknown settings {sorted(unknown)}", f"Those of {kind.__name__}: {', '.join(known)}."
        )
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            allowed = get_args(kinds[name]) if get_origin(kinds[name]) is Literal else ()
            wanted = f"one of {', '.join(allowed)}" if allowed else known[name]
            raise UsageError(where, f"has {prefix}{name} {value!r}", f"It must be {wanted}.")
    return kind(
        **{
            name: tuple(value) if get_origin(kinds[name]) is tuple else value
            for name, value in values.items()
        }
    )


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a setting's type; a list stands for a tuple, a whole number for a float."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (Union, UnionType):
        return any(_fits(value, own) for own in args)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        own = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(own) == len(value) and all(map(_fits, value, own))
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _fits(name, args[0]) and _fits(part, args[1]) for name, part in value.items()
        )
    return type(value) in ((int, float) if kind is float else (kind,))


def config_of(values: Mapping[str, Any], where: str) -> FitConfig:
    """Settings from plain values, as JSON has them.

    Raises:
        UsageError: a setting does not exist, or has a value that it cannot have.
    """
    values = dict(values)
    stages = values.pop("stages", ())
    if not isinstance(stages, (list, tuple)):
        raise UsageError(where, f"has stages {stages!r}", _STAGES_HINT)
    parts = {
        "model": strict(ModelConfig, values.pop("model", {}), where, "model."),
        "flow": strict(FlowConfig, values.pop("flow", {}), where, "flow."),
        "stages": tuple(strict(StageConfig, stage, where, "stages.") for stage in stages),
    }
    return strict(FitConfig, values | parts, where)  # type: ignore[no-any-return]


def save_config(config: FitConfig, path: Path) -> None:
    """Write the resolved settings, whole or not at all."""
    storage.write_local(path, (json.dumps(asdict(config), indent=2) + "\n").encode())


def load_config(path: Path) -> FitConfig:
    """Read resolved settings back.

    Raises:
        IntegrityError: the file is damaged.
        UsageError: there is no such file, or it has a setting that does not exist.
    """
    if not path.exists():
        raise UsageError(str(path.parent), "holds no run (no config.json)", "Train one with `rushes fit`.")
    return config_of({**LATER, **read_local_object(path)}, str(path))


def _read(path: Path, hint: str) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(str(path), f"cannot be read ({error})", hint) from error


def load_stages(path: Path) -> tuple[StageConfig, ...]:
    """Stages from a JSON file: a list of objects with the fields of `StageConfig`.

    Raises:
        UsageError: the file cannot be read, or has settings that do not exist.
    """
    found = _read(path, _STAGES_HINT)
    if not isinstance(found, list) or not found:
        raise UsageError(str(path), "is not a list of stages", _STAGES_HINT)
    return tuple(strict(StageConfig, item, str(path)) for item in found)


def with_settings(config: FitConfig, file: Path | None, assignments: Sequence[str]) -> FitConfig:
    """The settings, overridden by those of a JSON file and then by single assignments.

    Args:
        assignments: such as `flow.text_dropout=0.2`, `model.patch=[2,2,2]` or `captions={"dense":1}`; values
            are JSON, or else plain text.

    Raises:
        UsageError: the file cannot be read; a setting does not exist.
    """
    values = json.loads(json.dumps(asdict(config)))
    if file is not None:
        read = _read(file, 'Write an object such as {"clip_norm": 0.5, "flow": {"text_dropout": 0.2}}.')
        if not isinstance(read, dict):
            raise UsageError(str(file), "is not an object of settings")
        for name, value in read.items():
            values[name] = (
                values[name] | value if name in {"model", "flow"} and isinstance(value, dict) else value
            )
    for text in assignments:
        name, is_given, plain = text.partition("=")
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.get(parent, {}) if isinstance(place, dict) else {}
        if (
            not is_given
            or not isinstance(place, dict)
            or (last not in place and parents != ["flow", "condition"])
        ):
            raise UsageError(
                f"--set {text}",
                "names no setting",
                "Such as flow.text_dropout=0.2; `config.json` of a run has all names.",
            )
        if ".".join([*parents, last]) in _OF_DATA:
            raise UsageError(f"--set {text}", "is what the data says, whatever is set", "Leave it out.")
        try:
            place[last] = json.loads(plain)
        except ValueError:
            place[last] = plain
    return config_of(values, str(file or "--set"))


def changes_between(before: FitConfig, now: FitConfig) -> Changes:
    """The settings in which two configurations differ."""
    old, new = _flat(asdict(before)), _flat(asdict(now))
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping) and name in {"model", "flow"}
            else {f"{prefix}{name}": value}
        )
    return found


def note_changes(out: Path, step: int, changes: Changes) -> None:
    """Append the settings that changed at a resume, from `step` on, to the run's `changes.jsonl`."""
    if changes:
        row = {
            "step": step,
            "time_s": round(time.time()),
            "changes": {name: list(pair) for name, pair in changes.items()},
        }
        with open(out / "changes.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def measured_settings(path: Path, preset: str) -> dict[str, float]:
    """The settings that a file of `rushes measure` gives a run of a preset.

    Raises:
        UsageError: it is no such file, or of another preset, or of no GPU where there is one.
    """
    found = read_local_object(path)
    cost, length = found.get("attention_cost"), found.get("long_documents")
    if not isinstance(cost, float) or not isinstance(length, int) or not (cost >= 0 and length >= 0):
        raise UsageError(
            str(path), "gives no attention_cost and long_documents", "Make it by `rushes measure --out`."
        )
    if (of := found.get("preset")) != preset:
        raise UsageError(
            str(path), f"was measured of {of}, not of {preset}", f"Run `rushes measure {preset}`."
        )
    if found.get("device") == "cpu" and Path("/dev/nvidia0").exists():
        raise UsageError(str(path), "was measured on a CPU", "Measure where the run will be.")
    return {"attention_cost": cost, "long_documents": length}


def check_same_run(stored: Mapping[str, Any], config: FitConfig) -> None:
    """Whether settings that lie elsewhere are of this run, as far as they tell runs apart.

    Raises:
        UsageError: they are not.
    """
    before = config_of({**LATER, **stored}, "config.json of the copies")
    own = [
        f"{name} {old} is now {new}"
        for name, (old, new) in changes_between(before, config).items()
        if name.split(".")[0] not in RUN_ONLY and name not in _OF_DATA
    ]
    if own:
        raise UsageError("--checkpoints", f"holds copies of a run with other settings: {'; '.join(own)}")
