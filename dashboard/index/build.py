"""Building an index file, in a process of its own: `python -m dashboard.index.build DATASET FILE`.

It prints how many commits are in; what it makes appears under its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import duckdb

from dashboard.index import coding, tables
from dashboard.index.coded import code_all
from dashboard.index.commits import committed
from manifests.errors import RushesError
from manifests.layout import Dataset

MEMORY = "500MB"
ROWS_A_GROUP = 32_768
"""Of which all are read where one of them is looked for: fewer than DuckDB's 122,880."""
_SORTED = {"place": "clip_id", "sources": "source_id"}
"""Tables that are looked into by these fields, of which few rows then have to be read."""


def build(dataset: Dataset, path: Path) -> None:
    """Build the index of all that is committed now."""
    unfinished = path.with_name(f"whole{os.getpid()}.duckdb")
    commits = committed(dataset)
    try:
        with duckdb.connect(":memory:") as connection:
            quoted = str(unfinished).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS whole (ROW_GROUP_SIZE {ROWS_A_GROUP})")
            connection.execute("USE whole")
            connection.execute(f"SET temp_directory = '{quoted}.tmp'")
            connection.execute(f"SET memory_limit = '{MEMORY}'")
            connection.execute("SET threads = 2")
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET enable_progress_bar = false")
            again = (*coding.CODED, *_SORTED)  # which are written once more, from temporary tables
            tables.create(connection, again, "TEMP TABLE")
            tables.create(connection, [name for name in tables.NAMES if name not in again])
            tables.add(connection, dataset, commits, lambda done: print(done, len(commits), flush=True))
            code_all(connection, "temp", "whole.main")
            for name, key in _SORTED.items():
                connection.execute(
                    f"CREATE TABLE whole.main.{name} AS SELECT * FROM temp.{name} ORDER BY {key}"
                )
            connection.execute("USE memory")
            connection.execute("DETACH whole")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        Path(f"{unfinished}.wal").unlink(missing_ok=True)
        shutil.rmtree(f"{unfinished}.tmp", ignore_errors=True)


if __name__ == "__main__":
    try:
        build(Dataset(sys.argv[1]), Path(sys.argv[2]))
    except (duckdb.Error, OSError, RushesError) as error:
        sys.exit(f"{sys.argv[2]}: {' '.join(str(error).split())}")
