"""The device that a command computes on."""

from __future__ import annotations

import torch

from manifests.errors import UsageError


def chosen_device(name: str = "") -> str:
    """A device by its name, or a GPU where there is one if the name is empty.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"--device {name}", f"cannot be used ({cause})", "Such as cpu, or cuda.") from error
    return name
