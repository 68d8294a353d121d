"""The verb `make-films`: render a film world."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, SEED, WORKERS, Ranges
from manifests.errors import UsageError
from world.film import make_film, write_film


def _one(job: tuple[int, int, bool, float, str]) -> int:
    seed, index, is_still, scale, folder = job
    film = make_film(seed, index, is_still, scale)
    write_film(film, Path(folder))
    return film.num_frames


@dataclass(frozen=True, kw_only=True)
class Make:
    """Render films and stills, each with its truth as JSON beside it.

    Example: rushes make-films footage --films 60 --stills 20 --seed 1
    """

    ranges: ClassVar[Ranges] = {
        **dict.fromkeys(("films", "stills"), COUNT_OR_NONE),
        "seed": SEED,
        "scale": (0.1, 100, True),
        "workers": WORKERS,
    }

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write to."""
    films: int = 60
    """Number of films."""
    stills: int = 20
    """Number of still images."""
    seed: int = 0
    """The same seed gives the same world."""
    scale: float = 1.0
    """Factor on the picture sizes (1.0: 80 to 192 px a side)."""
    workers: int = 2
    """Processes that render."""
    overwrite: bool = False
    """Write into a folder that holds films already; those of the same names are replaced."""

    def run(self) -> int:
        if self.films + self.stills == 0:
            raise UsageError("--films 0 --stills 0", "leaves nothing to make")
        cli.writable(self.out)
        if not self.overwrite and any(self.out.glob("film-*")) | any(self.out.glob("still-*")):
            raise UsageError(
                str(self.out), "holds films", "Name another folder, or add --overwrite to replace them."
            )
        jobs = [(self.seed, index, False, self.scale, str(self.out)) for index in range(self.films)]
        jobs += [(self.seed, index, True, self.scale, str(self.out)) for index in range(self.stills)]
        with ProcessPoolExecutor(self.workers) as pool:
            frames = sum(pool.map(_one, jobs, chunksize=4))
        cli.say(f"world: {self.films} films and {self.stills} stills, {frames} frames, in {self.out}")
        print(self.out)
        return cli.DONE
