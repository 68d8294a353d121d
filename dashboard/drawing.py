"""Pictures made on the server as SVG, without a script and without inline style."""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from dashboard.asking.counts import Histogram

WIDTH, HEIGHT = 240, 56


def short(value: float) -> str:
    """A number in three digits, as a person would write it."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= scale:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g} {unit}"
    return f"{value:.0f}" if size >= 100 or value == round(value) else f"{value:.3g}"


def histogram(made: Histogram, link: Callable[[float, float], str]) -> Markup:
    """Bars of the selection over bars of the whole; each is a link that filters by its range.

    Heights are of the square root of the counts, so that few can be seen beside many.
    """
    most, step = math.sqrt(max([*made.whole, 1])), WIDTH / len(made.whole)
    parts = []
    last = len(made.whole) - 1
    for at, (whole, chosen) in enumerate(zip(made.whole, made.chosen, strict=True)):
        low = made.edges[at] if at else -math.inf
        high = made.edges[at + 1] if at < last else math.inf
        tall, full = (HEIGHT * math.sqrt(count) / most for count in (chosen, whole))
        label = f"{short(made.edges[at])} to {short(made.edges[at + 1])}: {chosen} of {whole}"
        parts.append(
            f'<a href="{html.escape(link(low, high))}" aria-label="{label}" tabindex="-1">'
            f"<title>{label}</title>"
            f'<rect class="hit" x="{at * step:.1f}" y="0" width="{step:.1f}" height="{HEIGHT}"/>'
            f'<rect class="whole" x="{at * step + 0.5:.1f}" y="{HEIGHT - full:.1f}" width="{step - 1:.1f}" '
            f'height="{full:.1f}"/><rect class="chosen" x="{at * step + 0.5:.1f}" y="{HEIGHT - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}"/></a>'
        )
    low, high = (min(max(limit, made.edges[0]), made.edges[-1]) for limit in made.limits)
    if any(math.isfinite(limit) for limit in made.limits):
        x, wide = (
            value * WIDTH / (made.edges[-1] - made.edges[0]) for value in (low - made.edges[0], high - low)
        )
        parts.append(f'<rect class="range" x="{x:.1f}" y="0" width="{max(wide, 1):.1f}" height="{HEIGHT}"/>')
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="group" '
        f'aria-label="{html.escape(made.field.title)}" data-measure="{made.field.name}" '
        f'data-low="{made.edges[0]!r}" data-high="{made.edges[-1]!r}">{"".join(parts)}</svg>'
    )


def drops(values: Sequence[float], threshold: float | None, moved: float | None, bins: int = 40) -> Markup:
    """A histogram of measured values with the threshold drawn, and where it would be."""
    low = min([*values, *([threshold] if threshold is not None else [])])
    high = max([*values, *([threshold] if threshold is not None else [])])
    span = high - low or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / span * bins))] += 1
    most, step = max(counts), 480 / bins
    parts = [
        f'<rect class="chosen" x="{at * step + 0.5:.1f}" y="{100 - 96 * count / most:.1f}" '
        f'width="{step - 1:.1f}" height="{96 * count / most:.1f}"><title>{count} near '
        f"{short(low + span * (at + 0.5) / bins)}</title></rect>"
        for at, count in enumerate(counts)
        if count
    ]
    for name, at in (("limit", threshold), ("moved", moved)):
        if at is not None:
            x = 480 * min(1.0, max(0.0, (at - low) / span))
            parts.append(f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="100"/>')
    return Markup(
        f'<svg class="drops" viewBox="0 0 480 100" preserveAspectRatio="none" role="img" data-low="{low!r}" '
        f'data-high="{high!r}" aria-label="measured values from {short(low)} to {short(high)}">'
        f"{''.join(parts)}</svg>"
    )


def bars(rows: Sequence[tuple[str, float]]) -> Markup:
    """Bars with labels, of (label, number) rows."""
    most = max([value for _, value in rows] + [0]) or 1
    lines = [
        f'<g><text x="0" y="{22 * at + 15}">{html.escape(str(label)[:40])}</text>'
        f'<rect class="chosen" x="200" y="{22 * at + 3}" height="16" '
        f'width="{300 * max(0, value) / most:.1f}"/>'
        f'<text class="n" x="506" y="{22 * at + 15}">{short(value)}</text></g>'
        for at, (label, value) in enumerate(rows)
    ]
    return Markup(
        f'<svg class="bars" viewBox="0 0 580 {22 * len(rows)}" role="img" aria-label="bars">'
        f"{''.join(lines)}</svg>"
    )


def lines(x: Sequence[float], columns: Sequence[Sequence[float | None]]) -> Markup:
    """Curves over one axis, the first of them faint where there are two; with the ends of both axes."""
    values = [value for column in columns for value in column if value is not None and math.isfinite(value)]
    if not values or len(x) < 2:
        return Markup("")
    low, high, begin, end = min(values), max(values), x[0], x[-1]
    tall, wide = high - low or 1.0, end - begin or 1.0
    parts = []
    for at, column in enumerate(columns):
        points = " ".join(
            f"{600 * (place - begin) / wide:.1f},{196 - 192 * (value - low) / tall:.1f}"
            for place, value in zip(x, column, strict=False)
            if value is not None and math.isfinite(value)
        )
        faint = " faint" if at == 0 and len(columns) > 1 else ""
        parts.append(f'<polyline class="l{at % 3 if not faint else 0}{faint}" points="{points}"/>')
    return Markup(
        f'<svg class="lines" viewBox="0 0 600 200" preserveAspectRatio="none" role="img" '
        f'aria-label="from {short(low)} to {short(high)}">{"".join(parts)}</svg>'
        f'<p class="ends"><span>{short(begin)}</span><span>between {short(low)} and {short(high)}</span>'
        f"<span>{short(end)}</span></p>"
    )


def word_diff(one: str, other: str) -> tuple[Markup, Markup]:
    """Two texts, each with the words marked that the other does not have in their place."""
    first, second = one.split(), other.split()
    matcher = difflib.SequenceMatcher(None, [w.lower() for w in first], [w.lower() for w in second], False)
    left, right = list[str](), list[str]()
    for what, a, b, c, d in matcher.get_opcodes():
        for words, found, tag in ((first[a:b], left, "del"), (second[c:d], right, "ins")):
            text = html.escape(shown(" ".join(words)))
            if text:
                found.append(text if what == "equal" else f"<{tag}>{text}</{tag}>")
    return Markup(" ".join(left)), Markup(" ".join(right))


_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def shown(text: str) -> str:
    """Text whose marks of direction can be seen, so that none hides what it says."""
    return "".join(f"[U+{ord(char):04X}]" if char in _DIRECTION else char for char in text or "")
