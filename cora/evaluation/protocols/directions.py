"""Horizontal directions in words: "behind on the left" is a yaw of -135 degrees.

Convention: yaw 0 is ahead (the middle of the panorama), right is positive; see ``docs/conventions.md``.
"""

from __future__ import annotations

import math
import re
from itertools import groupby

from cora.evaluation.closed import normalize
from cora.geometry.sphere import wrap_yaw_deg

__all__ = ["clock_deg", "direction_deg", "directions_in"]

_WORDS = {
    "ahead": "front",
    "front": "front",
    "forward": "front",
    "forwards": "front",
    "behind": "back",
    "back": "back",
    "rear": "back",
    "backward": "back",
    "backwards": "back",
    "left": "left",
    "right": "right",
}
_YAW_DEG = {
    frozenset({"front"}): 0.0,
    frozenset({"front", "right"}): 45.0,
    frozenset({"right"}): 90.0,
    frozenset({"back", "right"}): 135.0,
    frozenset({"back"}): -180.0,
    frozenset({"back", "left"}): -135.0,
    frozenset({"left"}): -90.0,
    frozenset({"front", "left"}): -45.0,
}
_FILLERS = frozenset(
    {"to", "on", "in", "at", "of", "the", "side", "hand", "your", "my", "our", "you", "me", "us", "and"}
    | {"directly", "straight", "slightly"}
)
# "Right. It is behind." is not behind on the right.
_SENTENCE_ENDS = re.compile(r"[.;:!?\n]+")
_CLOCK = re.compile(r"\b(\d{1,2}) ?oclock\b")


def direction_deg(text: str) -> float | None:
    """Return the yaw in degrees, in [-180, 180), of a text that is a direction and nothing else; else None.

    Convention: "to the right" is 90, "behind on the left" -135, "behind" -180.
    """
    if len(_sentences(text)) != 1:
        return None
    words = normalize(text).split()
    if not words or not all(word in _WORDS or word in _FILLERS for word in words):
        return None
    return _combined(words)


def directions_in(text: str) -> set[float]:
    """Return the yaws of all phrases of direction in a longer text, and NaN for one that contradicts itself."""
    found = set()
    for sentence in _sentences(text):
        for is_phrase, run in groupby(normalize(sentence).split(), lambda word: word in _WORDS or word in _FILLERS):
            words = list(run)
            if is_phrase and any(word in _WORDS for word in words):
                yaw = _combined(words)
                found.add(math.nan if yaw is None else yaw)
    return found


def clock_deg(text: str) -> float | None:
    """Return the yaw in degrees of the only clock position in a text; 12 o'clock is ahead, 3 o'clock right."""
    hours = {int(hour) for hour in _CLOCK.findall(normalize(text)) if 1 <= int(hour) <= 12}
    return wrap_yaw_deg(30.0 * hours.pop()) if len(hours) == 1 else None


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_ENDS.split(text) if normalize(part)]


def _combined(words: list[str]) -> float | None:
    return _YAW_DEG.get(frozenset(_WORDS[word] for word in words if word in _WORDS))
