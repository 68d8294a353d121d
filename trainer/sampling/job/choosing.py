"""Which feature the options of `rushes sample` ask for, and the scene it makes of them.

Options that do not go together are refused here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from manifests.errors import UsageError
from trainer.sampling import features
from trainer.sampling.canvas import Canvas, checked
from trainer.sampling.features import Clip, Scene, frames_in
from trainer.sampling.job.inputs import read_clip, read_mask, read_picture
from trainer.sampling.job.wish import Wish

DEFAULT_SIZE_PX, DEFAULT_FRAMES, DEFAULT_FPS = (128, 96), 25, 12.0
DEFAULT_GAP_S = 1.0


@dataclass(frozen=True)
class Feature:
    """A way to sample: the options that ask for it, those it needs, those it may have."""

    name: str
    asked_by: tuple[str, ...]
    needs: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()

    @property
    def options(self) -> set[str]:
        return {*self.asked_by, *self.needs, *self.allows}


TEXT = Feature("text", (), allows=("frames", "seconds"))
FEATURES = (
    Feature("images", ("image", "last_image", "keyframe"), allows=("frames", "seconds")),
    Feature("extend-after", ("extend_after",), ("video",)),
    Feature("extend-before", ("extend_before",), ("video",)),
    Feature("connect", ("connect",), allows=("gap",)),
    Feature("loop", ("loop",), allows=("frames", "seconds", "video", "gap")),
    Feature("edit", ("edit",), allows=("strength", "mask", "from_prompt")),
    Feature("blend", ("blend",), allows=("seconds", "frames", "to_prompt")),
)
_OF_ANY = ("prompt", "width", "height", "fps")


def option(name: str) -> str:
    """A setting as it is written on the command line."""
    return "--" + name.replace("_", "-")


def is_given(value: object) -> bool:
    """Whether a setting says anything: 0 does."""
    return value is not None and value is not False and value != ()


def chosen(wish: Wish) -> Feature:
    """The one feature that is asked for.

    Raises:
        UsageError: options that do not go together, one that lacks another, or a number out of range.
    """
    given = [name for name, value in vars(wish).items() if is_given(value)]
    special = [name for name in given if name not in _OF_ANY]
    asked = [feature for feature in FEATURES if set(feature.asked_by) & set(special)]
    if len(asked) > 1:
        names = [next(name for name in feature.asked_by if name in special) for feature in asked]
        raise UsageError(" and ".join(map(option, names)), "do not go together", "Make one after the other.")
    feature = asked[0] if asked else TEXT
    by = option(next((name for name in feature.asked_by if name in special), "prompt"))
    if wrong := [name for name in special if name not in feature.options]:
        others = " or ".join(option(other.asked_by[0]) for other in FEATURES if wrong[0] in other.options)
        if not asked:
            raise UsageError(option(wrong[0]), f"needs {others}")
        raise UsageError(option(wrong[0]), f"does not go with {by}", f"It belongs to {others}.")
    if missing := [name for name in feature.needs if name not in given]:
        raise UsageError(by, f"needs {option(missing[0])}")
    if wish.frames is not None and wish.seconds is not None:
        raise UsageError("--frames and --seconds", "do not go together")
    if (wish.width is None) != (wish.height is None):
        raise UsageError("--width and --height", "are given together or not at all")
    if feature.name == "loop" and wish.video is None and wish.gap is not None:
        raise UsageError("--gap", "needs --video: the loop is closed over it")
    if feature.name == "loop" and wish.video and (wish.frames or wish.seconds):
        raise UsageError("--frames and --seconds", "do not go with --video", "Use --gap for what is added.")
    for name in ("connect", "blend"):
        if len(getattr(wish, name)) not in (0, 2):
            raise UsageError(option(name), "takes two videos")
    return feature


def filled(wish: Wish) -> Wish:
    """The wish with what it does not say, where there is a usual value."""
    if wish.edit is not None and wish.strength is None:
        wish = replace(wish, strength=0.6 if wish.from_prompt is None else 0.9)
    if (wish.connect or (wish.loop and wish.video is not None)) and wish.gap is None:
        wish = replace(wish, gap=DEFAULT_GAP_S)
    return wish


def scene_of(wish: Wish, factor_t: int) -> tuple[Feature, Scene, tuple[Clip, ...]]:
    """The feature, the scene that the options describe, and the videos that a blend mixes.

    Raises:
        UsageError, RushesError: the options do not go together; a file cannot be read, or does not fit.
    """
    feature, wish = chosen(wish), filled(wish)
    scene, clips = _MAKERS[feature.name](wish, factor_t)
    return feature, scene, clips


def _size(wish: Wish) -> tuple[int, int] | None:
    return (wish.width, wish.height) if wish.width and wish.height else None


def _clip(wish: Wish, path: Path) -> Clip:
    return read_clip(path, _size(wish), wish.fps)


def _frames(wish: Wish, fps: float) -> int:
    if wish.seconds is not None:
        return frames_in(wish.seconds, fps)
    return wish.frames if wish.frames is not None else DEFAULT_FRAMES


def _canvas(wish: Wish, size_px: tuple[int, int] | None = None) -> Canvas:
    width, height = _size(wish) or size_px or DEFAULT_SIZE_PX
    fps = wish.fps or DEFAULT_FPS
    return checked(Canvas(num_frames=_frames(wish, fps), height_px=height, width_px=width, fps=fps))


Made = tuple[Scene, tuple[Clip, ...]]


def _of_text(wish: Wish, factor_t: int) -> Made:
    return features.from_text(_canvas(wish)), ()


def _of_images(wish: Wish, factor_t: int) -> Made:
    paths = [path for path in (wish.image, wish.last_image) if path]
    keyframes = [_keyframe(text) for text in wish.keyframe]
    first = read_picture([*paths, *(path for _, path in keyframes)][0], _size(wish))
    canvas = _canvas(wish, (first.shape[1], first.shape[0]))
    size = (canvas.width_px, canvas.height_px)
    told = [(0, "--image", wish.image), (canvas.num_frames - 1, "--last-image", wish.last_image)]
    told += [(round(second * canvas.fps), f"--keyframe {second:g}", path) for second, path in keyframes]
    places = dict[int, tuple[str, Path]]()
    for frame, name, path in told:
        if path is None:
            continue
        if frame >= canvas.num_frames:
            raise UsageError(
                f"{name}={path}",
                f"is frame {frame} of a video of {canvas.num_frames}",
                f"The last one is at {(canvas.num_frames - 1) / canvas.fps:.6g} s.",
            )
        if frame in places:
            raise UsageError(
                f"{places[frame][0]} and {name}", f"are both of frame {frame}", "Give one of them."
            )
        places[frame] = name, path
    pictures = {frame: read_picture(path, size) for frame, (_, path) in sorted(places.items())}
    return features.from_images(canvas, pictures), ()


def _keyframe(text: str) -> tuple[float, Path]:
    second, is_given, path = text.partition("=")
    try:
        found = float(second)
    except ValueError:
        found = float("nan")
    if not is_given or not path or not 0 <= found < 1e6:
        raise UsageError(f"--keyframe {text}", "is not SECONDS=FILE", "Such as --keyframe 1.5=picture.png.")
    return found, Path(path)


def _of_extension(wish: Wish, factor_t: int) -> Made:
    assert wish.video is not None
    clip = _clip(wish, wish.video)
    if wish.extend_after is not None:
        return features.extend_after(clip, frames_in(wish.extend_after, clip.fps), factor_t), ()
    assert wish.extend_before is not None
    return features.extend_before(clip, frames_in(wish.extend_before, clip.fps), factor_t), ()


def _of_two(wish: Wish, factor_t: int) -> Made:
    first, second = features.alike(*(_clip(wish, path) for path in wish.connect))
    assert wish.gap is not None
    count = frames_in(wish.gap, first.fps)
    return features.connect(first, second, count, factor_t), ()


def _of_loop(wish: Wish, factor_t: int) -> Made:
    if wish.video is None:
        canvas = _canvas(wish)
        if wish.frames is None and wish.seconds is None:  # the usual number, to whole latents
            whole = max(1, round(canvas.num_frames / factor_t)) * factor_t
            canvas = Canvas(**vars(canvas) | {"num_frames": whole})
        return features.loop(canvas, factor_t), ()
    clip = _clip(wish, wish.video)
    assert wish.gap is not None
    count = frames_in(wish.gap, clip.fps)
    return features.close_loop(clip, count, factor_t), ()


def _of_edit(wish: Wish, factor_t: int) -> Made:
    assert wish.edit is not None
    clip = _clip(wish, wish.edit)
    size = (clip.frames.shape[2], clip.frames.shape[1])
    mask = read_mask(wish.mask, size) if wish.mask else None
    assert wish.strength is not None
    return features.edit(clip, wish.strength, mask), ()


def _of_blend(wish: Wish, factor_t: int) -> Made:
    first, second = features.alike(*(_clip(wish, path) for path in wish.blend))
    whole = min(len(first), len(second))
    is_told = wish.frames is not None or wish.seconds is not None
    count = _frames(wish, first.fps) if is_told else whole
    return features.blend(first, second, count, factor_t), (first, second)


_MAKERS: dict[str, Callable[[Wish, int], Made]] = {
    "text": _of_text,
    "images": _of_images,
    "extend-after": _of_extension,
    "extend-before": _of_extension,
    "connect": _of_two,
    "loop": _of_loop,
    "edit": _of_edit,
    "blend": _of_blend,
}
