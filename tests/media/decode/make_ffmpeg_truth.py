"""What FFmpeg itself says of every real file: `python tests/media/decode/make_ffmpeg_truth.py FOLDER` writes
`ffmpeg_truth.json` beside this script.

Of the stream a player shows: the number of frames, the times of about 25 of them and the mean colour of five,
from FFmpeg's own RGB, undistorted and unturned. Needs `ffmpeg` and `ffprobe` (Debian 12's 5.1). The test
reads the result, so it needs neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

NUM_TIMES, NUM_COLOURS = 25, 5


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, check=False, timeout=600)


def stream_index(path: Path) -> int | None:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            return stream.index if stream is not None and stream.codec_context is not None else None
    except av.FFmpegError:
        return None


def truth(path: Path) -> dict | None:
    """None where FFmpeg shows no frame."""
    index = stream_index(path)
    if index is None:
        return None
    entries = ("-show_entries", "frame=best_effort_timestamp_time,width,height", "-of", "json")
    frames = json.loads(
        run("ffprobe", "-v", "error", "-select_streams", str(index), *entries, str(path)).stdout
    ).get("frames", [])
    if not frames:
        return None
    picks = sorted({int(i) for i in np.linspace(0, len(frames) - 1, NUM_TIMES)})
    shown = sorted({int(i) for i in np.linspace(0, len(frames) - 1, NUM_COLOURS)})
    chosen = "+".join(f"eq(n\\,{i})" for i in shown)
    arguments = (
        "-noautorotate",
        "-i",
        str(path),
        "-map",
        f"0:{index}",
        "-vsync",
        "passthrough",
        "-vf",
        f"select='{chosen}',format=rgb24",
    )
    done = run("ffmpeg", "-v", "error", "-threads", "1", *arguments, "-f", "rawvideo", "-")
    width, height = frames[0]["width"], frames[0]["height"]
    size = width * height * 3
    colours = [
        np.frombuffer(done.stdout, np.uint8, size, number * size).reshape(-1, 3).mean(0).round(2).tolist()
        for number in range(len(done.stdout) // size)
    ]
    return {
        "num_frames": len(frames),
        "is_clean": not done.stderr.strip() and done.returncode == 0,
        "stored_size_px": [width, height],
        "times_s": {
            i: float(frames[i].get("best_effort_timestamp_time", "nan"))
            - float(frames[0].get("best_effort_timestamp_time", "nan"))
            for i in picks
        },
        "colours": dict(zip(shown, colours, strict=False)),
    }


def main(folder: Path) -> None:
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".tsv", ".json", ".md"}
    )
    found = {name: truth(folder / name) for name in names}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    (Path(__file__).parent / "ffmpeg_truth.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
