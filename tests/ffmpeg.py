"""The `ffmpeg` command, which some tests make or judge files with; rushes itself needs none."""

from __future__ import annotations

import shutil

import pytest


def ffmpeg() -> str:
    """Its path; the test that asks is skipped where there is none."""
    if (found := shutil.which("ffmpeg")) is None:
        pytest.skip("needs the ffmpeg command (apt-get install ffmpeg)")
    return found
