"""Captions of the film world: the truth in words, and the realistic junk that footage comes with."""

from __future__ import annotations

import numpy as np

from world.scene import Shot, Thing

_CAMERA = {
    "static": "The camera is static.",
    "pan_left": "The camera pans left.",
    "pan_right": "The camera pans right.",
    "tilt_up": "The camera tilts up.",
    "tilt_down": "The camera tilts down.",
    "zoom_in": "The camera zooms in.",
    "zoom_out": "The camera zooms out.",
    "handheld": "The camera is handheld and shakes slightly.",
}
_MOVES = {
    "right": "moves from left to right",
    "left": "moves from right to left",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
}
_SETTING = {
    "meadow": "on a green meadow under a pale sky",
    "desert": "in a sandy desert",
    "night sky": "in front of a starry night sky",
    "brick wall": "in front of a brick wall",
    "studio": "in a grey studio with a tiled floor",
    "sea": "by the open sea",
}


def _name(thing: Thing, full: bool = True) -> str:
    return (
        f"{thing.size} {thing.color} {thing.texture + ' ' if thing.texture != 'plain' else ''}{thing.shape}"
        if full
        else f"{thing.color} {thing.shape}"
    )


def _an(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def short(shot: Shot) -> str:
    """The main subject only, a dozen words at most."""
    thing = shot.things[0]
    name = _an(_name(thing, full=False))
    return name if shot.duration_s == 0 else f"{name} that {_MOVES[thing.motion]}"


def relation(shot: Shot) -> str:
    """Where the first thing stands to the second at mid-shot, on the axis on which they differ more.

    Empty for one thing alone.
    """
    if len(shot.things) < 2:
        return ""
    first, second = shot.things[:2]
    dx, dy = second.x - first.x, second.y - first.y
    return ("left of" if dx > 0 else "right of") if abs(dx) >= abs(dy) else ("above" if dy > 0 else "below")


def dense(shot: Shot) -> str:
    """A dense caption: every object, its motion, their places, setting, light, camera and any text."""
    is_still = shot.duration_s == 0
    parts = [
        _an(_name(thing)) if is_still else f"{_an(_name(thing))} that {_MOVES[thing.motion]}"
        for thing in shot.things
    ]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    sentences = [f"{listed[0].upper()}{listed[1:]} {_SETTING[shot.background]}, in {shot.light}."]
    if len(shot.things) > 1:
        first, second = shot.things[:2]
        sentences.append(
            f"The {first.color} {first.shape} is {relation(shot)} the {second.color} {second.shape}."
        )
    if shot.title:
        sentences.append(f'The text "{shot.title}" is written at the bottom.')
    if not is_still:
        sentences.append(_CAMERA[shot.camera])
    return " ".join(sentences)


def structured(shot: Shot) -> dict[str, str]:
    """The same truth as fields."""
    return {
        "subject": "; ".join(_name(thing) for thing in shot.things),
        "action": "; ".join(thing.motion for thing in shot.things),
        "setting": shot.background,
        "camera": shot.camera,
        "lighting": shot.light,
        "style": "computer animation",
    }


def alt(shots: list[Shot], seed: int) -> str:
    """What such a file would be called on the web: often junk, sometimes half right."""
    rng = np.random.default_rng(seed)
    main = shots[0].things[0]
    junk = [
        f"IMG_{rng.integers(1000, 9999)}.MOV",
        "untitled clip final v2",
        "new video!!! watch till the end",
        "Shop our summer sale",
        f"DSC00{rng.integers(100, 999)}",
    ]
    move = "" if shots[0].duration_s == 0 or main.motion == "still" else f" moving {main.motion}"
    half = [
        f"{main.shape} video",
        f"{main.color} {main.shape}",
        f"{main.size} {main.shape} {shots[0].background} animation",
        f"a {main.color} {main.shape}{move}",
        f"{main.shape}{move} stock footage",
    ]
    if shots[0].duration_s > 0 and shots[0].camera != "handheld":
        half.append(f"{shots[0].camera.replace('_', ' ')} {shots[0].background} shot")
    return str(rng.choice(junk if rng.random() < 0.35 else half))
