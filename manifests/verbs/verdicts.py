"""The verb `verdicts`: what people said of captions becomes a column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from manifests import cli
from manifests.layout import Dataset
from manifests.verdicts import VERDICTS, take_in
from manifests.views import View
from manifests.writing.lease import Lease


@dataclass(frozen=True, kw_only=True)
class TakeVerdicts:
    """Make a column of people's verdicts on captions, which `rushes dashboard --verdicts FILE` collects.

    The view named gets it; its predicate may then say
    `clip_id NOT IN (SELECT clip_id FROM verdicts WHERE verdict = 'wrong')`.

    Example: rushes verdicts DATASET verdicts.jsonl
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    file: Annotated[Path, tyro.conf.Positional]
    """The file of verdicts."""
    view: str = "default"
    """View to point at the column."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        with Lease(dataset):
            view = View.load(dataset, self.view)
            column, num_rows, num_unknown, bad_lines = take_in(dataset, self.file)
            replace(view, columns={**view.columns, "verdict": column}).save(dataset, self.view)
        cli.print_line(f"{column}: {num_rows} verdicts, view {self.view} has them")
        if num_unknown:
            cli.say(f"verdicts: {num_unknown} are of captions that are not here")
        if bad_lines:
            shown = ", ".join(map(str, bad_lines[:10])) + (", ..." if len(bad_lines) > 10 else "")
            cli.say(
                f"verdicts: {len(bad_lines)} lines of {self.file} hold none (line {shown}); "
                f"the words are {', '.join(VERDICTS)}"
            )
        return cli.DONE
