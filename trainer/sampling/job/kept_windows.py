"""The windows of a long sample that are made, beside the file they will be: who is stopped goes on there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from manifests.store import storage


class KeptWindows:
    """Latents [C, n, h, w] of one sample by the number of the window.

    Args:
        path: of the sample's file.
        record: how it is made; windows of another are not taken.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.folder = path.with_name(f".{path.stem}.windows")
        told = json.dumps(record, sort_keys=True, ensure_ascii=False)
        self._of = hashlib.sha256(told.encode()).hexdigest()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def get(self, number: int) -> Tensor | None:
        """A window as it was made; None where it was not, or otherwise."""
        try:
            with safe_open(self._file(number), framework="pt") as file:
                is_ours = (file.metadata() or {}).get("of") == self._of
                return file.get_tensor("latent") if is_ours else None
        except (OSError, SafetensorError):
            return None

    def put(self, number: int, latent: Tensor) -> None:
        self.folder.mkdir(exist_ok=True)
        storage.write_local(self._file(number), save({"latent": latent.contiguous()}, {"of": self._of}))

    def forget(self) -> None:
        """They have become a file, or are of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)
