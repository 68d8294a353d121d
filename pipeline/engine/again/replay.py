"""`replay` does one shard's stage again beside the dataset and compares the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro
from pyarrow import fs

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.tables import planned, records
from pipeline.engine.again.aims import aim_of, stages_of_run
from pipeline.stages.protocol import run_stage


class Beside(Dataset):
    """A dataset that reads as the original but writes one column below `runs/replay/`."""

    def __init__(self, original: Dataset, column: Column) -> None:
        super().__init__(original.uri)
        self.column = column

    def _moved(self, path: str, column: Column | str) -> str:
        return self.path("runs", "replay", self.relative(path)) if str(column) == str(self.column) else path

    def tar_path(self, column: Column, shard: int, sha256: str) -> str:
        return self._moved(super().tar_path(column, shard, sha256), column)

    def part_path(self, table: str, column: Column | str, shard: int, sha256: str) -> str:
        return self._moved(super().part_path(table, column, shard, sha256), column)

    def record_path(self, column: Column, shard: int) -> str:
        return self._moved(super().record_path(column, shard), column)

    def covers(self, column: Column, shard: int) -> bool:
        return column != self.column and super().covers(column, shard)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Do one stage's work on one shard again, without Ray, and compare it with what is committed.

    For debugging a stage on the very input it met, and for proving that a column is a function of its inputs.
    The dataset stays as it is; what is made lies below runs/replay. Exit code 4 where the bytes differ.

    Example: rushes replay preview 3 --dataset DATASET
    """

    ranges: ClassVar[Ranges] = {"shard": COUNT_OR_NONE}

    stage: Annotated[str, tyro.conf.Positional]
    """preview, embed, score, caption, text or latent."""
    shard: Annotated[int, tyro.conf.Positional]
    """Shard number."""
    dataset: str
    """Dataset folder or address."""
    view: str = ""
    """View whose columns are meant; what the last run worked for if left out."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        stages, _ = stages_of_run(dataset, aim_of(dataset, self.view).columns.values())
        stage = next((stage for stage in stages if stage.name == self.stage), None)
        if stage is None:
            raise UsageError(
                self.stage,
                "is no stage of the last run",
                f"Stages: {', '.join(stage.name for stage in stages)}.",
            )
        generation = planned.shards(dataset).get(self.shard)
        if generation is None:
            raise UsageError(f"shard {self.shard}", "is not in the plan", "See `rushes status DATASET`.")
        stage.setup()
        earlier = dataset.path("runs", "replay")
        if dataset.filesystem.get_file_info(earlier).type == fs.FileType.Directory:
            dataset.filesystem.delete_dir(earlier)
        beside = Beside(dataset, stage.column)
        account, seconds = run_stage(stage, beside, "replay", self.shard, generation, cli.say, is_forced=True)
        assert account is not None
        cli.say(
            f"{stage.column} shard {self.shard}: {account.num_kept} kept, {account.num_dropped} dropped, "
            f"{account.num_failed} failed in {seconds:.1f} s"
        )
        if not dataset.is_committed(stage.column, self.shard):
            cli.print_line(f"made in {beside.path('runs', 'replay')}; nothing is committed to compare with")
            return cli.DONE
        [old], [new] = (
            records.rows_of_shard(place, "shards", stage.column, self.shard) for place in (dataset, beside)
        )
        before, after = ({item["name"]: item["crc32"] for item in record["members"]} for record in (old, new))
        members = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        digests = [  # an older version wrote parts without rows, too
            {part["table"]: part["sha256"] for part in record["parts"] if part["rows"]}
            for record in (old, new)
        ]
        tables = sorted(
            name
            for name in digests[0].keys() | digests[1].keys()
            if digests[0].get(name) != digests[1].get(name)
        )
        if old["tar_sha256"] == new["tar_sha256"] and not tables:
            cli.print_line(f"the same bytes as committed: {len(before)} members, {len(digests[0])} tables")
            return cli.DONE
        print(
            f"differs from what is committed: members {', '.join(members) or 'none'}; tables "
            f"{', '.join(tables) or 'none'}"
        )
        return cli.INTEGRITY
