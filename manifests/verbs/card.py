"""The verb `card`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from manifests import cli
from manifests.exporting.dataset_card import dataset_card
from manifests.layout import Dataset
from manifests.store import storage
from manifests.tables import scans


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a dataset holds, where it came from and how it was made, as a page of Markdown.

    Example: rushes card DATASET --out CARD.md
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    out: Path | None = None
    """File to write; printed if left out."""
    view: str = "default"
    """View whose clips and captions are described."""
    overwrite: bool = False
    """Replace the file."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        with scans.one_moment(dataset):
            text = dataset_card(dataset, self.view)
        if self.out is None:
            print(text, end="")
            return cli.DONE
        cli.check_new(self.out, is_overwriting=self.overwrite)
        storage.write_local(self.out, text.encode())
        print(self.out)
        return cli.DONE
