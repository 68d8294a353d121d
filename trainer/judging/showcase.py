"""One sample of each feature on one page: what a model of the film world can do, made by the command itself.

Later features begin with what earlier ones made, so the page needs a model and nothing else.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from manifests import cli
from manifests.cli.ranges import SEED, Ranges
from manifests.layout import SHOWCASE_MARK
from manifests.store import storage
from trainer.sampling.job.command import Sample
from world.captions import dense
from world.scene import Shot, Thing

SHEET_FRAMES = 4
MASK = "mask.png"


def shot(
    subject: str,
    background: str,
    motion: str = "still",
    *,
    size: str = "large",
    texture: str = "plain",
    light: str = "daylight",
    camera: str = "static",
    is_still: bool = False,
) -> Shot:
    """A shot with one thing, such as `red ball`."""
    color, shape = subject.split()
    thing = Thing(shape, color, size, texture, motion, 0.0, 0.0, 0.2, 0.0, 0.0)
    return Shot(0, 0.0 if is_still else 2.0, background, light, camera, 0.18, [thing])


@dataclass(frozen=True)
class Entry:
    """One sample of the page: its feature, what it should show, and the options that make it."""

    name: str
    title: str
    shot: Shot
    options: dict[str, Any]
    prompt: str = ""  # where it is another than that of the shot

    def path(self, out: Path) -> Path:
        return out / f"{self.name}{'.png' if self.shot.duration_s == 0 else '.webm'}"


def entries(out: Path, scale: float) -> list[Entry]:
    """The samples of the page, at sizes and rates that the world's films do not have."""

    def size(width: int, height: int) -> dict[str, Any]:
        return {"width": round(width * scale), "height": round(height * scale)}

    ball = shot("red ball", "meadow", "right")
    box = shot("blue box", "desert", light="warm light", is_still=True)
    moving_box = shot("blue box", "desert", "up", light="warm light")
    star = shot("yellow star", "night sky", light="cool light", camera="pan_right")
    ring = shot("orange ring", "studio", "left")
    yellow = shot("yellow ball", "meadow", "right")
    triangle = shot("pink triangle", "sea", "down", texture="striped")
    wide, tall = size(176, 104), size(104, 176)
    text = {**wide, "seconds": 2.0, "fps": 10.0}
    first, second = out / "text-to-video.webm", out / "other-text-to-video.webm"
    return [
        Entry("text-to-video", "Text to video", ball, text),
        Entry("other-text-to-video", "Another shape of video from text", ring, text),
        Entry("tall", "Tall, another rate", triangle, {**tall, "seconds": 1.5, "fps": 14.0}),
        Entry("text-to-image", "Text to image", box, size(152, 120)),
        Entry(
            "image-to-video",
            "Image to video: the picture above begins it",
            moving_box,
            {"image": out / "text-to-image.png", "seconds": 2.0, "fps": 10.0},
        ),
        Entry(
            "last-image",
            "The picture comes last",
            moving_box,
            {"last_image": out / "text-to-image.png", "seconds": 1.5, "fps": 10.0},
        ),
        Entry(
            "keyframe",
            "The picture comes after a second",
            moving_box,
            {"keyframe": (f"1={out / 'text-to-image.png'}",), "seconds": 2.0, "fps": 10.0},
        ),
        Entry("extend-after", "A second more after the first", ball, {"video": first, "extend_after": 1.0}),
        Entry(
            "extend-before", "A second more before the first", ball, {"video": first, "extend_before": 1.0}
        ),
        Entry(
            "connect",
            "From the first to the second in a second",
            ring,
            {"connect": (first, second), "gap": 1.0},
        ),
        Entry(
            "loop",
            "A loop without a seam",
            star,
            {**size(128, 128), "loop": True, "seconds": 2.4, "fps": 10.0},
        ),
        Entry("loop-of-video", "The first as a loop", ball, {"video": first, "loop": True, "gap": 1.0}),
        Entry("long", "Longer than a window of latents", star, {**size(96, 96), "seconds": 8.0, "fps": 10.0}),
        Entry("edit", "The first, made anew from noise level 0.6 as a yellow ball", yellow, {"edit": first}),
        Entry(
            "edit-by-prompts",
            "The first, from its prompt to a yellow ball",
            yellow,
            {"edit": first, "from_prompt": dense(ball), "strength": 0.9},
        ),
        Entry(
            "edit-in-mask",
            "All but the left third of the first, made anew from noise level 0.8 as a yellow ball",
            yellow,
            {"edit": first, "mask": out / MASK, "strength": 0.8},
        ),
        Entry(
            "blend",
            "The first becomes the second",
            ring,
            {"blend": (first, second), "to_prompt": dense(ring)},
            dense(ball),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """One sample of each feature, on one page and one sheet, with the commands that make them.

    Of a model of the film world, at shapes it was not trained on; a reader that sees only the pictures
    guesses which prompt each was made for.

    Example: rushes showcase dit-tiny --out showcase
    """

    essential: ClassVar[tuple[str, ...]] = ("model_folder", "out", "scale", "guidance", "steps")
    ranges: ClassVar[Ranges] = {
        "scale": (0.1, 100, True),
        "guidance": (0, 1000, True),
        "steps": (1, 10_000, True),
        "seed": SEED,
    }

    model_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`, exported model, or a name under weights/."""
    out: Path
    """Folder to write: index.html, sheet.png, and the samples."""
    scale: float | None = None
    """Factor on the picture sizes, as in `rushes make-films --scale`; left out: that of the films the model
    was trained on, where its `model.json` says it, else 0.75."""
    guidance: float = 3.0
    """Weight of the text."""
    steps: int = 24
    """Solver steps."""
    seed: int = 0
    """Of the noise."""
    vae: Path | None = None
    """Folder of the VAE; that of the training data if left out."""
    overwrite: bool = False
    """Replace samples that exist."""

    def run(self) -> int:
        from trainer.judging.cases import world_scale
        from trainer.state.beginning import record_of

        cli.writable(self.out)
        scale = world_scale(record_of(str(self.model_folder))) if self.scale is None else self.scale
        found = entries(self.out, scale)
        # one that was cut short is made anew: its page comes last
        is_cut = (self.out / SHOWCASE_MARK).exists() and not (self.out / "index.html").exists()
        is_overwriting = self.overwrite or is_cut
        made = [(entry, self._sample(entry, is_overwriting)) for entry in found]
        cli.check_new(
            self.out / "index.html",
            self.out / "sheet.png",
            *(entry.path(self.out) for entry in found),
            is_overwriting=is_overwriting,
        )
        (self.out / SHOWCASE_MARK).touch()  # an ingest of the folders around it leaves it out
        _write_mask(self.out / MASK, found[0].options["width"], found[0].options["height"])
        for _, sample in made:
            sample.run()
        share = guessed(found, self.out)
        _sheet(found, self.out)
        storage.write_local(self.out / "index.html", _page(made, share).encode())
        cli.say(f"showcase: a reader of the pictures names the prompt of {share:.0%} of {len(found)} samples")
        print(self.out / "index.html")
        return cli.DONE

    def _sample(self, entry: Entry, is_overwriting: bool) -> Sample:
        return Sample(
            model_folder=self.model_folder,
            out=entry.path(self.out),
            prompt=entry.prompt or dense(entry.shot),
            upsample=False,
            guidance=self.guidance,
            steps=self.steps,
            seed=self.seed,
            vae=self.vae,
            overwrite=is_overwriting,
            **entry.options,
        )


def _write_mask(path: Path, width: int, height: int) -> None:
    """A picture that is white but for its left third."""
    from media.decode.images import encode_png

    mask = np.zeros((height, width, 3), np.uint8)
    mask[:, width // 3 :] = 255
    storage.write_local(path, encode_png(mask))


def guessed(found: Sequence[Entry], out: Path) -> float:
    """The share of samples whose prompt is the likeliest of all, by what is read in their pictures.

    Of a sample that goes from one thing to another, the last second is read.
    """
    from trainer.sampling.job.inputs import read_clip
    from world.reading.reader import read, truth_of

    right = 0
    for entry in found:
        clip = read_clip(entry.path(out))
        frames = clip.frames[-round(clip.fps) :] if entry.name in ("connect", "blend") else clip.frames
        seen = read(frames.numpy(), clip.fps).attributes(len(clip) == 1)
        wanted = [(truth_of(other.shot), other) for other in found]
        scores = [sum(seen.get(name) == value for name, value in truth.items()) for truth, _ in wanted]
        best = max(scores)
        names = {dense(other.shot) for score, (_, other) in zip(scores, wanted, strict=True) if score == best}
        right += names == {dense(entry.shot)}
    return right / len(found)


def _sheet(found: Sequence[Entry], out: Path) -> None:
    from captioner.judging.sheet import contact_sheet
    from trainer.sampling.job.inputs import read_clip

    rows = []
    for entry in found:
        frames = read_clip(entry.path(out)).frames.numpy()
        picks = np.unique(np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int))
        rows.append(([frames[index] for index in picks], f"{entry.title}\n{dense(entry.shot)}"))
    contact_sheet(rows, out / "sheet.png")


def command_of(sample: Sample) -> str:
    """The command line that makes a sample."""
    words = ["rushes", "sample", str(sample.model_folder)]
    for item in fields(sample):
        value = getattr(sample, item.name)
        if item.name == "model_folder" or value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _page(made: Sequence[tuple[Entry, Sample]], share: float) -> str:
    cards = []
    for entry, sample in made:
        name = html.escape(sample.out.name)
        shown = (
            f'<img src="{name}" alt="">'
            if sample.out.suffix == ".png"
            else f'<video src="{name}" autoplay loop muted playsinline></video>'
        )
        cards.append(
            f"<figure>{shown}<figcaption><h2>{html.escape(entry.title)}</h2><p>{html.escape(sample.prompt)}</p>"
            f"<details><summary>command</summary><code>{html.escape(command_of(sample))}</code></details>"
            "</figcaption></figure>"
        )
    return _PAGE.format(cards="\n".join(cards), share=f"{share:.0%}", count=len(made))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>One sample of each feature</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fafaf8 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 2rem }}
figure {{ margin: 0 }}
video, img {{ width: 100%; max-height: 22rem; object-fit: contain; background: #ececea }}
h2 {{ font-size: 1rem; margin: .6rem 0 .2rem }}
p {{ margin: .2rem 0 }}
code {{ font-size: .8rem; overflow-wrap: anywhere }}
</style>
<h1>One sample of each feature</h1>
<p>A reader that sees only the pictures names the prompt of {share} of the {count} samples.</p>
<main>
{cards}
</main>
</html>
"""
