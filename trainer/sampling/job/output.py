"""What a sample leaves: the file, with how it was made in its metadata, the same as JSON, and a sheet.

A file appears whole or not at all.
"""

from __future__ import annotations

import glob
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests import cli
from manifests.errors import UsageError
from manifests.store import storage
from media.decode.images import encode_png
from media.writer import write_video

CODECS = {".mp4": "h264", ".webm": "vp9", ".mkv": "ffv1"}
SHEET_FRAMES = 6


SUFFIXES = (*CODECS, ".png")
_MOST_NAME_BYTES = 180
_MACHINE = platform.node().replace(".", "_").replace("-", "_") or "here"
_OWN = f"{_MACHINE}-{os.getpid()}"
"""In the names of files that are being written: several processes may make the same sample."""


@dataclass(frozen=True)
class Output:
    """The files of one sample.

    `path` is a .png for an image; .mp4, .webm, or .mkv for a video, the last of them without loss.
    """

    path: Path

    @property
    def record(self) -> Path:
        """How it was made, as JSON."""
        return self.path.with_suffix(".json")

    @property
    def sheet(self) -> Path | None:
        """Frames of a video side by side."""
        return self.path.with_suffix(".sheet.png") if self.path.suffix != ".png" else None

    def check_kind(self, num_frames: int) -> None:
        """Refuse a kind of file that cannot hold so many frames."""
        if self.path.suffix not in SUFFIXES or (self.path.suffix == ".png") != (num_frames == 1):
            raise UsageError(
                str(self.path),
                f"cannot hold {'one frame' if num_frames == 1 else f'{num_frames} frames'}",
                "A picture goes into a .png, a video into .mp4, .webm, or .mkv for every pixel as made"
                + ("; more frames come of a longer --seconds, --frames or file." if num_frames == 1 else "."),
            )

    def check_new(self, is_overwriting: bool, given: Sequence[Path] = ()) -> None:
        """Refuse to overwrite files, except the JSON or sheet of a sample that was never finished.

        Args:
            given: files that the sample begins with, which nothing may replace.

        Raises:
            UsageError: there are some; the record belongs to another sample; the name is too long.
        """
        own = {path.resolve() for path in (self.path, self.record, self.sheet) if path}
        if same := next((path for path in given if path.resolve() in own), None):
            raise UsageError(str(same), "would be replaced by what is made of it", "Give another --out.")
        others = (self.path.with_suffix(suffix) for suffix in SUFFIXES if suffix != self.path.suffix)
        if other := next((path for path in others if path.exists() and self.record.exists()), None):
            raise UsageError(
                str(self.record), f"tells how {other.name} was made", "Give a name with another beginning."
            )
        if len(os.fsencode(self.path.name)) > _MOST_NAME_BYTES:
            raise UsageError(str(self.path), "has too long a name", f"At most {_MOST_NAME_BYTES} bytes.")
        cli.check_new(
            self.path, self.record, self.sheet, is_overwriting=is_overwriting or self._is_left_by_us()
        )

    def _is_left_by_us(self) -> bool:
        if any(self.path.with_suffix(suffix).exists() for suffix in SUFFIXES):  # whose these are
            return False
        try:
            found = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and "model_digest" in found

    def recorded(self) -> dict[str, Any] | None:
        """How the file that is there was made; None if there is none that is whole."""
        try:
            found = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        return found if self.path.exists() and isinstance(found, dict) else None

    def write(
        self, frames: Iterator[np.ndarray], num_frames: int, fps: float, record: Mapping[str, Any]
    ) -> None:
        """Write frames [H, W, 3] uint8 as they come, and the JSON; at last the file has its name."""
        text = json.dumps(record, indent=1, ensure_ascii=False)
        cli.with_folder(self.path)
        self._sweep()
        partial = self.path.with_name(f".{self.path.stem}.{_OWN}.partial{self.path.suffix}")
        picks, picked = set(np.linspace(0, num_frames - 1, SHEET_FRAMES).round().astype(int)), []

        def watched() -> Iterator[np.ndarray]:
            for index, frame in enumerate(frames):
                if index in picks:
                    picked.append(frame)
                yield frame

        with ExitStack() as stack:
            stack.callback(partial.unlink, missing_ok=True)
            if self.sheet is None:
                picture, target = encode_png(next(frames), text), self.path
            else:
                write_video(partial, watched(), fps, CODECS[self.path.suffix], comment=text)
                picture, target = encode_png(np.concatenate(picked, axis=1)), self.sheet
            # all is written before anything is replaced, which takes no room
            new = {self.record: text.encode(), target: picture}
            written = {path: stack.enter_context(storage.beside(str(path))) for path in new}
            for path, data in new.items():
                written[path].write_bytes(data)
            self.path.unlink(missing_ok=True)  # an old file is never seen with a new record
            for path, temporary in written.items():
                os.replace(temporary, path)
            if self.sheet is not None:
                os.replace(partial, self.path)

    def _sweep(self) -> None:
        """Take away what processes of this machine that are gone had begun to write."""
        for path in filter(None, (self.path, self.record, self.sheet)):
            storage.sweep(path)
        for partial in self.path.parent.glob(f".{glob.escape(self.path.stem)}.*.partial{self.path.suffix}"):
            machine, _, process = partial.name.split(".partial")[0].rpartition(".")[2].rpartition("-")
            if machine == _MACHINE and process.isdigit() and not storage.is_alive(int(process)):
                partial.unlink(missing_ok=True)
