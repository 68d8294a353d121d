"""One query of a user, in a process of its own: `python -m dashboard.sql_child INDEX_FILE`.

Standard input holds the query on its first line, in JSON, and after it Arrow streams of what the index has in
memory. The process reaches no file but the index, reads it only, and is killed by its parent in time.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

MOST_ROWS, MOST_BYTES = 10_000, 8 << 20
MEMORY = "512MB"
_ADDRESS_SPACE = 4 << 30


def answer(path: Path | None, request: dict[str, Any], memory: dict[str, pa.Table]) -> dict[str, Any]:
    """The rows of a query, or why there are none."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute("SET threads = 1")
    connection.execute("SET max_temp_directory_size = '0KB'")
    if path is not None:
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS base (READ_ONLY)")
    for name, rows in memory.items():
        connection.register(f"held_{name}", rows)
        connection.execute(f"CREATE TABLE delta_{name} AS SELECT * FROM held_{name}")
        connection.unregister(f"held_{name}")
    connection.execute("CREATE SCHEMA now")
    for name, text in request["views"].items():
        connection.execute(f"CREATE VIEW now.{name} AS {text}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    connection.execute("USE memory.now")
    statements = connection.extract_statements(request["query"])
    if len(statements) != 1:
        return {"error": f"{len(statements)} statements: give one query"}
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        return {"error": "this is no query: tables are read here, and not changed"}
    found = connection.execute(statements[0])
    rows, size, is_cut = list[list[Any]](), 0, False
    while (row := found.fetchone()) is not None:
        if is_cut := len(rows) == MOST_ROWS or size > MOST_BYTES:
            break
        rows.append([_plain(value) for value in row])
        size += len(json.dumps(rows[-1]))
    return {
        "columns": [column[0] for column in found.description],
        "types": [str(column[1]) for column in found.description],
        "rows": rows,
        "is_cut": is_cut,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def main() -> None:
    """Read, answer, end."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    given = sys.stdin.buffer.read()
    line, _, rest = given.partition(b"\n")
    request = json.loads(line)
    memory, stream = {}, io.BytesIO(rest)
    for name in request["tables"]:
        memory[name] = pa.ipc.open_stream(stream).read_all()
    try:
        said = answer(Path(sys.argv[1]) if sys.argv[1:] else None, request, memory)
    except duckdb.Error as error:
        said = {"error": " ".join(str(error).split())}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
