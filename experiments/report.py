"""From arms to a report: a table on the terminal, the same as JSON, and a plot."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from experiments.arms import Arm, Budget
from experiments.asking import Outcome, Where, ask
from manifests import cli
from manifests.errors import RushesError, UsageError
from manifests.store import storage
from trainer.judging.accuracy import Score

Row = tuple[str, Mapping[str, Score | float]]
"""Name of an arm or a group, and what was measured of it by column."""


def by_shapes(found: Sequence[Outcome]) -> list[Row]:
    """Loss and accuracy of each arm at shapes that were trained on and at others."""
    groups: dict[str, Where] = {
        "seen shapes": lambda case: case.is_seen,
        "unseen shapes": lambda case: not case.is_seen,
    }
    return [
        (f"{own.arm.name}, {group}", {"loss": own.losses[group], **own.all_right(where)})
        for own in found
        for group, where in groups.items()
    ]


def run(
    name: str,
    title: str,
    description: str,
    arms: Callable[[Budget], Sequence[Arm]],
    rows: Callable[[Sequence[Outcome]], list[Row]] = by_shapes,
) -> None:
    """The command line of an experiment.

    Args:
        name: of its files.
        arms: which are trained, for a budget.
        rows: what is told of them.
    """
    budget = tyro.cli(Budget, description=description)
    try:
        _check_plots()
        found = rows(ask(arms(budget), budget))
        table(title, found)
        write(budget.out, name, title, found, asdict(budget))
    except RushesError as error:
        cli.say(f"error {error}")
        sys.exit(error.exit_code)


def _check_plots() -> None:
    """
    Raises:
        UsageError: what draws the figure is missing, which would show after hours of training.
    """
    if importlib.util.find_spec("matplotlib") is None:
        step = "Install rushes with its extra `experiments`."
        raise UsageError("the figure", "needs matplotlib", step)


def table(title: str, rows: Sequence[Row]) -> None:
    """Print a table; scores have their 95 % interval."""
    columns = list(rows[0][1])
    cells = [[name, *(_shown(own[key]) for key in columns)] for name, own in rows]
    cli.print_table(title, ["", *columns], cells)


def _shown(value: Score | float) -> str:
    if isinstance(value, Score):
        return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})" if value.count else "-"
    return f"{value:.3f}"


def write(out: Path, name: str, title: str, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write `experiment-NAME.json` and `.png` into `out`, and say where."""
    out.mkdir(parents=True, exist_ok=True)
    found = {
        arm: {key: value.to_json() if isinstance(value, Score) else value for key, value in own.items()}
        for arm, own in rows
    }
    path = out / f"experiment-{name}"
    text = json.dumps({"title": title, "settings": facts, "found": found}, indent=1, default=str)
    storage.write_local(path.with_suffix(".json"), (text + "\n").encode())
    _plot(path.with_suffix(".png"), title, rows)
    print(path.with_suffix(".png"))


def _plot(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Bars of all scores, one colour for each row, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = [key for key, value in rows[0][1].items() if isinstance(value, Score)]
    figure, axes = pyplot.subplots(figsize=(1.6 + 1.1 * len(columns), 3.4), layout="constrained")
    wide = 0.8 / len(rows)
    for number, (name, own) in enumerate(rows):
        scores = [value for key in columns if isinstance(value := own[key], Score)]
        values = [value.value for value in scores]
        spread = [
            [value.value - value.low for value in scores],
            [value.high - value.value for value in scores],
        ]
        places = [place - 0.4 + wide * (number + 0.5) for place in range(len(columns))]
        axes.bar(places, values, wide, yerr=spread, label=name, error_kw={"lw": 0.8})
    axes.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
    axes.set_ylim(0, 1)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
