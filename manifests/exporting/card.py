"""The card beside exported tars: what a sample holds, in the words that Hugging Face `datasets` reads.

Without it the types of `json` are guessed from the first samples, and a list that is empty in those can hold
nothing later. For the same reason nothing in `json` is null (`full`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from manifests.schemas import TABLES
from manifests.sql.queries import OF_SOURCES

_MEDIA = {"jpg": "image", "webm": "video", "safetensors": "binary"}
_WORDS = """# Clips with captions{more}

WebDataset tars made by `rushes export`, one per shard, the same keys in every sample:

```python
from datasets import load_dataset
clips = load_dataset("FOLDER", streaming=True, split="train")
```

Videos are decoded by `torchcodec`; `cast_column("proxy.webm", Video(decode=False))` needs none.

`energon prepare FOLDER` makes the same tars a Megatron Energon dataset. Nothing in `json` is null: -1 stands
for a number that was not measured, and for the span of a caption that is of the whole clip.
"""


def card(fields: Sequence[str], made_by: Sequence[str]) -> str:
    """The README.md of an export.

    Args:
        fields: members of a sample besides `txt` and `json`.
        made_by: names in the `made_by` of a sample's `json`.
    """
    sample = [
        *({"name": name, "dtype": _MEDIA[name.rpartition(".")[2]]} for name in fields),
        {"name": "txt", "dtype": "string"},
        {
            "name": "json",
            "struct": [
                {"name": "clip", "struct": _rows("clips")},
                {"name": "captions", "list": _rows("captions")},
                {"name": "latent", "struct": _rows("latents")},
                {"name": "source", "struct": [{"name": name, "dtype": "string"} for name in OF_SOURCES]},
                {"name": "scores", "list": _rows("scores")},
                {"name": "verdicts", "list": _rows("verdicts")},
                {"name": "made_by", "struct": [{"name": name, "dtype": "string"} for name in made_by]},
            ],
        },
    ]
    words = {"text.safetensors": ", text embeddings", "latent.safetensors": ", latents"}
    more = "".join(words.get(name, "") for name in fields)
    head = json.dumps({"features": sample})  # JSON is YAML
    return f"---\ndataset_info: {head}\n---\n\n{_WORDS.format(more=more)}"


def full(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without nulls: "" for a text, [] for a list, -1 for a number, false for a flag."""
    return {name: _empty(kind) if row.get(name) is None else row[name] for name, kind, _ in TABLES[table]}


def _empty(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_string(kind):
        return ""
    return False if pa.types.is_boolean(kind) else -1.0 if pa.types.is_floating(kind) else -1


def _rows(table: str) -> list[dict[str, Any]]:
    return [{"name": name, **_type(kind)} for name, kind, _ in TABLES[table]]


def _type(kind: pa.DataType) -> dict[str, Any]:
    names = {"double": "float64", "float": "float32"}
    if pa.types.is_list(kind):
        return {"list": names.get(str(kind.value_type), str(kind.value_type))}
    return {"dtype": names.get(str(kind), str(kind))}
