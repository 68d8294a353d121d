"""The same folder of real files through rushes and its peers: undisturbed, killed, started again.

    python benchmarks/peers.py [--footage FOLDER] [--files N] [--only NAME ...] [--work DIR]

The folder is that of the tests' real videos where none is given (RUSHES_REAL_VIDEOS).

Each peer is installed from PyPI into an environment of its own under --work and makes clips as its
documentation does (`peer_tools.py`). One that cannot be installed, or makes no clip, is a row that says why.
Needs the `ffmpeg` and `ffprobe` commands, which rushes itself does not, and some 25 GB of disk.

Each runs three times: to its end; until half of that time has passed (--kill-at), when all of its processes
are killed; and once more by the same command. Of a small folder half of the time is starting.

* `rushes`: `ingest --only preview`: curated clips are spans of the source with measurements, previews and a
  small proxy. No clip is encoded at full size, so bytes and CPU seconds are not those of a transcoder.
* `open-sora`: the two steps of Open-Sora's tools (PySceneDetect's adaptive detector; one ffmpeg a scene, left
  out where its file exists), as written here: the tools themselves are on no registry.
* `video2dataset`: content detector and ffmpeg's segment muxer, re-encoding; `-copy` cuts at keyframes.
* `data-juicer`: exact duplicates, duration, scene split; a video of one scene stays the source file.
* `nemo-curator`: clips of 10 s (its shot detector needs weights and a GPU), libopenh264, Ray Data.

Columns: `no clip` counts input files of which no clip came; `records` and `log` say of how many of these the
tool gave the name, in what it leaves on disk and in what it prints; `left` is the clips there when it was
killed; `again` is CPU seconds of the restarted run over those of the undisturbed one. Frames are counted by
decoding each clip; for rushes its table counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer_runs import adopt, install, run, version_of
from peer_tools import PEERS, ROOT, Outcome, num_frames

WORDS = ("error", "fail", "exception", "warn", "invalid", "corrupt", "skip", "could not", "cannot")


def command(
    name: str, python: Path, footage: Path, out: Path, work: Path
) -> tuple[list[str], dict[str, str]]:
    """The words and the environment of one run."""
    peer, environment = PEERS[name], {**os.environ, "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(work / "home"), "RAY_TMPDIR": str(work / "ray")}
    environment.pop("RAY_ADDRESS", None)
    if name == "rushes":
        words = [sys.executable, "-m", "rushes", "ingest", str(footage), "--out", str(out)]
        return words + ["--only", "preview", "--plan.shard-s", "60"], environment | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    program = work / f"{name}.program.py"
    program.write_text(peer.program)
    more = [str(work / "ray") if word == "RAY" else word for word in peer.words]
    return [str(python), str(program), str(footage), str(out), *more], environment


def named_in(log: Path, names: set[str]) -> set[str]:
    """The names that stand in a line of the log that complains."""
    lines = log.read_text(errors="replace").splitlines()
    lines = [line for line in lines if any(word in line.lower() for word in WORDS)]
    return {name for name in names if any(name in line for line in lines)}


def compared(whole: Outcome, again: Outcome) -> str:
    """Whether the killed and restarted run came to the same end."""
    one, two = whole.clips, again.clips
    if one == two:
        return "same bytes"
    if sorted(one.values()) == sorted(two.values()):
        return "same bytes, other names"
    lost, more = one.keys() - two.keys(), two.keys() - one.keys()
    both = one.keys() & two.keys()
    fewer = sum(two[key].num_frames < one[key].num_frames for key in both)
    other = sum(one[key].digest != two[key].digest for key in both) - fewer
    return f"{len(lost)} lost, {len(more)} more, {fewer} broken, {other} other bytes, of {len(one)}"


def measured(name: str, footage: Path, work: Path, limit_s: float, kill_at: float) -> dict[str, Any]:
    """One tool: install, run, run and kill, run again."""
    peer, python = PEERS[name], Path(sys.executable)
    if peer.needs:
        python, problem = install(name, peer, work)
        if problem:
            return {"problem": f"not installed: {problem}"}
    folder = work / "out" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for other in ("home", "ray"):
        shutil.rmtree(work / other, ignore_errors=True)
        (work / other).mkdir()
    result: dict[str, Any] = {"version": version_of(python, peer.package)}

    out = folder / "out"
    words, environment = command(name, python, footage, out, work)
    first = run(words, environment, folder / "first.log", limit_s)
    whole = peer.outcome(out, footage)
    without = {path.name for path in footage.iterdir()} - {clip.source for clip in whole.clips.values()}
    result |= {"wall_s": first.wall_s, "cpu_s": first.cpu_s, "exit": first.code, "clips": len(whole.clips)}
    result["bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    result["frames"] = sum(clip.num_frames for clip in whole.clips.values())
    result["without_clip"] = sorted(without)
    result["told_in_records"] = sorted(without & whole.told)
    result["told_in_log"] = sorted(named_in(folder / "first.log", without))
    if first.is_cut_off or not whole.clips:
        lines = (folder / "first.log").read_text(errors="replace").strip().splitlines() or [""]
        why = f"did not end in {limit_s:.0f} s" if first.is_cut_off else f"made no clip, exit {first.code}"
        return result | {"problem": f"{why}; last line: {lines[-1][:160]}"}
    if out.exists():
        out.rename(folder / "whole")
    killed = run(words, environment, folder / "killed.log", first.wall_s * kill_at)
    left = peer.outcome(out, footage)
    second = run(words, environment, folder / "again.log", limit_s)
    again = peer.outcome(out, footage)
    result |= {"was_killed": killed.is_cut_off, "killed_cpu_s": killed.cpu_s, "left": len(left.clips)}
    result |= {"again_cpu_s": second.cpu_s, "again_exit": second.code}
    result["again_share"] = second.cpu_s / first.cpu_s
    result["outcome"] = compared(whole, again) if not second.is_cut_off else f"did not end in {limit_s:.0f} s"
    return result


def subset(footage: Path, num_files: int, work: Path) -> Path:
    """A flat folder of copies: of all files, evenly many from the sorted list."""
    names = sorted(path for path in footage.rglob("*") if path.is_file() and path.suffix != ".tsv")
    count = min(num_files or len(names), len(names))
    chosen = [names[place * len(names) // count] for place in range(count)]
    folder = work / "footage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in chosen:
        shutil.copyfile(path, folder / "__".join(path.relative_to(footage).parts))
    return folder


def table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'tool':19}{'version':>9}{'wall s':>8}{'CPU s':>8}{'MiB':>7}{'clips':>7}{'frames':>8}{'no clip':>9}"
        f"{'records':>9}{'log':>5}{'left':>6}{'again':>7}  after kill and restart"
    )
    for name, row in results.items():
        if "wall_s" in row:
            line = f"{name:19}{row['version']:>9}{row['wall_s']:8.0f}{row['cpu_s']:8.0f}"
            line += (
                f"{row['bytes'] / 2**20:7.1f}{row['clips']:7}{row['frames']:8}{len(row['without_clip']):9}"
            )
            line += f"{len(row['told_in_records']):9}{len(row['told_in_log']):5}"
            if "outcome" in row:
                line += f"{row['left']:6}{row['again_share']:7.2f}  {row['outcome']}"
            yield line
        if "problem" in row:
            yield f"{name:19}{row['problem']}"


def main() -> int:
    """Install, run, print."""
    parser = argparse.ArgumentParser()
    real = os.environ.get("RUSHES_REAL_VIDEOS", ROOT.parent / "shared" / "videos")
    parser.add_argument("--footage", type=Path, default=Path(real))
    parser.add_argument("--files", type=int, default=24, help="take so many of the files; 0 for all")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--work", type=Path, default=Path("peers-work"))
    parser.add_argument("--limit-s", type=float, default=3600, help="of each run")
    parser.add_argument("--kill-at", type=float, default=0.5, help="share of the undisturbed wall time")
    given = parser.parse_args()
    missing = [tool for tool in ("ffmpeg", "ffprobe") if not shutil.which(tool)]
    if missing:
        print(f"left out: needs {' and '.join(missing)} on PATH")
        return 0
    if not given.footage.is_dir():
        print(f"left out: no folder {given.footage}; name one by --footage")
        return 0
    adopt()
    work = given.work.resolve()
    folder = subset(given.footage, given.files, work)
    files = sorted(folder.iterdir())
    frames = sum(map(num_frames, files))
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {size / 2**20:.1f} MiB, {frames} frames decode", flush=True)
    results = {}
    for name in given.only:
        results[name] = measured(name, folder, work, given.limit_s, given.kill_at)
        print(*list(table({name: results[name]}))[1:], sep="\n", flush=True)
    print("\n" + "\n".join(table(results)) + "\n")
    told = {"files": len(files), "bytes": size, "frames": frames, "results": results}
    (work / "results.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
