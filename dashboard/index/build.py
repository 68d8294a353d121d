"""Building an index file, in a process of its own: `python -m dashboard.index.build DATASET FILE`.

It prints how many commits are in; what it makes appears under its name when it is whole.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb

from dashboard.index import tables
from dashboard.index.commits import committed
from manifests.layout import Dataset

MEMORY = "1GB"


def build(dataset: Dataset, path: Path) -> None:
    """Build the index of all that is committed now."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    commits = committed(dataset)
    try:
        with duckdb.connect(str(unfinished)) as connection:
            connection.execute(f"SET memory_limit = '{MEMORY}'")
            connection.execute("SET threads = 2")
            connection.execute("SET preserve_insertion_order = false")
            tables.create(connection)
            tables.add(connection, dataset, commits, lambda done: print(done, len(commits), flush=True))
            connection.execute("CREATE TABLE sorted AS SELECT * FROM place ORDER BY clip_id")
            connection.execute("DROP TABLE place")
            connection.execute("ALTER TABLE sorted RENAME TO place")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        Path(f"{unfinished}.wal").unlink(missing_ok=True)


if __name__ == "__main__":
    build(Dataset(sys.argv[1]), Path(sys.argv[2]))
