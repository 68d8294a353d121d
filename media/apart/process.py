"""A decoder's process, seen from the one that asks.

It is confined (`confine.py`), holds no credentials, and its death is an error of the file that it read. What
it answers is believed no more than the file.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import media
from manifests.cli import say
from media.apart.landlock import NAMING, lies_among_secrets
from media.apart.wire import Wire, WireError
from media.bytes.access import is_local, open_binary
from media.errors import MediaError

_GRACE_S = 5.0
MOST_FAR_BYTES = 1 << 20
"""Of a file that is not local, in one request."""
_KEPT = (
    *("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "RUSHES_MAX_PIXELS", "COVERAGE_PROCESS_START"),
    *("HOME", *NAMING),  # where secrets lie, so that it can be kept from there
)


_APART = "files are decoded apart, with limits, but this system"
_OF_GPUS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


class DoubtfulDeath(ChildProcessError):  # noqa: N818 - an event, and nobody's error yet
    """A decoder died that had served other files: a library may have been hurt by one of those."""


class Decoder:
    """One process that decodes.

    Args:
        on_gpu: it holds a GPU, if there is one; see `media.decode.gpu`.

    Attributes:
        pid: its process.
        is_filtered: its system calls are filtered, not its resources alone.
        gpu_trouble: why it holds no GPU.
    """

    def __init__(self, *, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        kept = (*_KEPT, *_OF_GPUS) if on_gpu else _KEPT
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(media.__file__).parents[1]), *filter(None, sys.path)]
        )
        reads, child_writes = os.pipe()
        child_reads, writes = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "media.apart.child", str(os.getpid()), *(["gpu"] if on_gpu else [])],
            stdin=child_reads,
            stdout=child_writes,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us to hear
        )
        os.close(child_reads)
        os.close(child_writes)
        self.pid, self._wire = self._process.pid, Wire(reads, writes)
        self._uri = self._last = ""
        self._has_served_others, self._num_begun = False, 0
        self._file: BinaryIO | None = None  # open where it is not local
        try:
            told = self._wire.receive()[0]
            self.is_filtered = bool(told.get("is_filtered"))
            self.gpu_trouble = str(told.get("gpu_trouble"))
            if not self.is_filtered:
                tell_once(f"{_APART} filters no system calls (seccomp)")
            if not told.get("is_kept"):
                tell_once(f"{_APART} keeps them from no file that this user may read (Landlock)")
        except WireError as error:
            self.end()
            raise OSError(
                f"the decoder's process cannot be started (exit code {self._process.returncode}); see above"
            ) from error

    def begin(self, uri: str) -> None:
        """From now on it reads this file, and may ask for the bytes of no other."""
        self._has_served_others |= self._last not in ("", uri)
        self._num_begun += 1
        self._uri = self._last = uri

    def ask(self, do: str, **arguments: Any) -> tuple[dict[str, Any], np.ndarray]:
        """What it answers, which is no error.

        Raises:
            MediaError: the file cannot be read, or the process died of it.
            DoubtfulDeath: the process died, and had served other files.
            ChildProcessError: it was killed from outside, as where a machine runs out of memory.
            OSError: a fault of the machine.
        """
        header, data = self.answer(do, **arguments)
        self.check(header)
        return header, data

    def answer(self, do: str, **arguments: Any) -> tuple[dict[str, Any], np.ndarray]:
        """What it answers, errors of the file included."""
        try:
            self._wire.send({"do": do, **arguments})
            while True:
                header, data = self._wire.receive()
                if "size" not in header and "read" not in header:
                    return header, data
                self._hand(header)
        except WireError as error:
            raise self._death(error) from error

    def check(self, header: dict[str, Any]) -> None:
        """Raise the error that an answer holds."""
        try:
            if "error" in header:
                reason, message = header["error"]
                is_denied = reason == "access_denied" or (
                    reason == "decode" and os.strerror(errno.EACCES) in str(message)
                )
                if is_denied and is_local(self._uri) and os.access(self._uri, os.R_OK):
                    self._check_kept_from()
                raise MediaError(str(reason), _naming(self._uri, str(message)))
            if "machine" in header:
                number, message = header["machine"]
                raise OSError(number and int(number), str(message))
        except (TypeError, ValueError) as error:
            raise self.nonsense(header) from error

    def _check_kept_from(self) -> None:
        """It may not read what this process may: what lies among secrets, or came after it began.

        Raises:
            MediaError: the file lies where credentials do.
            DoubtfulDeath: a new decoder may tell.
        """
        if lies_among_secrets(self._uri):
            raise MediaError(
                "access_denied",
                f"{self._uri} lies where credentials usually do, which no decoder may read. Move it.",
            )
        if self._num_begun > 1:
            self.end()
            raise DoubtfulDeath(f"{self._uri} came after its decoder began")

    def _hand(self, request: dict[str, Any]) -> None:
        """Hand out bytes of the file that is being read, or its size."""
        if is_local(self._uri):  # it opens that itself
            raise self.nonsense(request)
        try:
            file = self._file = self._file or open_binary(self._uri)
            if "size" in request:
                self._wire.send({"size": file.seek(0, os.SEEK_END)})
                return
            offset, size = (int(number) for number in request["read"])
            if not (offset >= 0 and 0 <= size <= MOST_FAR_BYTES):
                raise ValueError(f"{size} bytes at {offset}")
            file.seek(offset)
            self._wire.send({}, file.read(size))
        except MediaError as error:
            self._wire.send({"error": [error.reason, error.message]})
        except (TypeError, ValueError) as error:
            raise self.nonsense(request) from error

    def rest(self) -> None:
        """It has done with the file."""
        self._uri = ""
        if self._file is not None:
            self._file.close()
        self._file = None

    def arrays(self, header: dict[str, Any], data: np.ndarray) -> list[np.ndarray]:
        """The pictures [H, W, 3] uint8 in an answer, which share its memory."""
        found, begin = list[np.ndarray](), 0
        shapes = header.get("shapes")
        for shape in shapes if isinstance(shapes, list) else [None]:
            match shape:
                case [int(height), int(width), 3] if height > 0 < width:
                    end = begin + height * width * 3
                    if end <= len(data):
                        found.append(data[begin:end].reshape(height, width, 3))
                        begin = end
                        continue
            raise self.nonsense(header)
        if begin != len(data):
            raise self.nonsense(header)
        return found

    def nonsense(self, header: dict[str, Any]) -> MediaError:
        """It answered what cannot be: end it, and an error to raise."""
        self.end()
        return MediaError("decoder_died", f"{self._uri}: its decoder answered nonsense: {str(header)[:100]}")

    def _death(self, error: WireError) -> Exception:
        """What a death is: the file's fault, or somebody's outside."""
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.end()
            return MediaError("decoder_died", f"{self._uri}: its decoder fell silent ({error})")
        self._wire.close()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return ChildProcessError(f"{self._uri}: its decoder was killed from outside ({name})")
        if self._has_served_others:
            return DoubtfulDeath(f"{self._uri}: its decoder died of it, or of a file before it ({name})")
        return MediaError("decoder_died", f"{self._uri}: its decoder died of it ({name})")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        self._wire.close()


@functools.cache
def tell_once(text: str) -> None:
    """Say a line that this process has not said yet."""
    say(text)


def _naming(uri: str, message: str) -> str:
    return message if uri in message else f"{uri}: {message}"
