"""Charts as SVG in the page: they take its colours, scale with it, and are read by a screen reader as one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from cora.evaluation.report.scores import Group

__all__ = ["bars", "histogram"]

# Narrow enough to be read on a phone without scrolling.
_WIDTH = 400
_LABELS = 112
_LEFT = _LABELS + 8
_RIGHT = 44
_ROW = 24
_LONGEST = 16
_BINS = 10


def bars(title: str, groups: Sequence[Group]) -> Markup:
    """Return a bar for each group that has a value, from 0 to 1, with a whisker where it has an interval."""
    known = [group for group in groups if group.value is not None]
    height = 30 + _ROW * len(known) + 8
    scale = _WIDTH - _LEFT - _RIGHT
    parts = [_line(_LEFT + scale * part, 26, _LEFT + scale * part, height - 6, "grid") for part in (0, 0.5, 1)]
    for number, group in enumerate(known):
        value = min(max(group.value or 0.0, 0.0), 1.0)
        top = 30 + _ROW * number
        parts.append(_text(_LABELS, top + 15, group.name, "end"))
        parts.append(_bar(_LEFT, top + 3, scale * value, _ROW - 8, f"{group.name}: {value:.1%}"))
        if group.low is not None and group.high is not None:
            low, high = (_LEFT + scale * min(max(end, 0.0), 1.0) for end in (group.low, group.high))
            middle = top + _ROW / 2 - 1
            parts.append(_line(low, middle, high, middle, "whisker"))
            parts += [_line(end, middle - 4, end, middle + 4, "whisker") for end in (low, high)]
        parts.append(_text(_WIDTH - _RIGHT + 6, top + 15, f"{value:.0%}", "start"))
    said = ", ".join(f"{group.name} {group.value:.1%}" for group in known)
    return _chart(title, said, height, parts)


def histogram(title: str, values: Sequence[float]) -> Markup:
    """Return how many samples have which score, in ten bins from 0 to the largest score, or to 1."""
    top_value = max(1.0, *values)
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, max(0, int(value / top_value * _BINS)))] += 1
    height, floor, full = 150, 122, 84
    left, each = 12, (_WIDTH - 24) / _BINS
    parts = [_line(left, floor, _WIDTH - left, floor, "grid")]
    for number, count in enumerate(counts):
        tall = full * count / max(counts)
        x = left + each * number
        span = f"{top_value * number / _BINS:.2g} to {top_value * (number + 1) / _BINS:.2g}"
        parts.append(_bar(x + 1, floor - tall, each - 2, tall, f"{span}: {count}"))
        if count:
            parts.append(_text(x + each / 2, floor - tall - 4, str(count), "middle"))
    for part in (0.0, 0.5, 1.0):
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[part]
        parts.append(_text(left + (_WIDTH - 2 * left) * part, floor + 16, f"{top_value * part:.3g}", anchor))
    mean = sum(values) / len(values)
    return _chart(title, f"{len(values)} samples, mean {mean:.3f}", height, parts)


def _chart(title: str, said: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{title}: {said}">'
        '<text x="0" y="14" class="title">{title}</text>{parts}</svg>'
    ).format(width=_WIDTH, height=height, title=title, said=said, parts=Markup("").join(parts))


def _bar(x: float, y: float, width: float, height: float, said: str) -> Markup:
    return Markup(
        '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(x, y, width, height, said)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    full = Markup("<title>{}</title>").format(text) if shown != text else Markup("")
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>').format(x, y, anchor, escape(shown), full)
