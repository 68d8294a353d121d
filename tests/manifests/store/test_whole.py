"""No program writes a file straight to its name: a kill or a full disk would leave half of it there."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("manifests", "media", "learning", "vae", "captioner", "pipeline", "trainer", "dashboard")
WRITES = {"write_text", "write_bytes"}
TO_TEMPORARIES = {
    *("manifests/store/storage.py", "manifests/store/reading.py", "pipeline/stages/journal.py"),
    *("trainer/sampling/job/output.py", "trainer/state/checkpoint_files.py", "learning/sharing.py"),
    "captioner/backends/weights.py",
}
OF_NO_ONE = {
    "manifests/verbs/pages.py",  # the pages of docs/, which git keeps
    "trainer/run/upkeep.py",  # a table beside a profile
}


def straight(path: Path) -> list[int]:
    """Lines that write by `Path.write_text`, `Path.write_bytes` or an image's `save` to a path."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        is_storage = isinstance(owner, ast.Name) and owner.id == "storage"
        names = {
            one.id for argument in node.args[:1] for one in ast.walk(argument) if isinstance(one, ast.Name)
        }
        is_picture = node.func.attr == "save" and "path" in names and len(node.args) == 1
        if (node.func.attr in WRITES and not is_storage) or (
            is_picture and "fromarray" in ast.unparse(owner)
        ):
            found.append(node.lineno)
    return found


def test_files_appear_whole_or_not_at_all():
    found = {
        str(path.relative_to(ROOT)): lines
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if (lines := straight(path))
    }
    assert found.keys() - TO_TEMPORARIES - OF_NO_ONE == set()
    assert found.keys() >= TO_TEMPORARIES | OF_NO_ONE, "one of these writes no more"
