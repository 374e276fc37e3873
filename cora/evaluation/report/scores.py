"""The numbers of a page that ``metrics.json`` has: metrics with intervals, and scores by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cora.evaluation.labels import LABELS, label_of

__all__ = ["Group", "Metric", "groups_of", "metrics_of"]

_BY = "_by_"
# Breakdowns of accuracy that have names of their own.
_ACCURACY_BY = {"protocols": "protocol", "regions": "region of the sphere"}
_OF_YAW = ("mean_accuracy", "worst_shift_accuracy", "worst_case", "agreement", "all_agree")
_OF_A_GROUP = frozenset({"accuracy", "value", "interval", "correct", "answered", "unanswered"})


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the run; `low` and `high` are its interval where the results have one."""

    name: str
    label: str
    value: float | None
    low: float | None
    high: float | None
    remark: str


@dataclass(frozen=True, slots=True)
class Group:
    """Accuracy over some closed questions, such as those of a type; `remark` is what else is known about them."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    correct: int
    answered: int
    unanswered: int
    remark: str


def metrics_of(document: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of ``metrics.json``: exact match first, then in its order."""
    found = []
    for name, entry in document["metrics"].items():
        low, high = _interval(entry)
        remark = "; ".join(text for key in ("why", "how") if (text := entry.get(key)))
        found.append(Metric(name, label_of(name), entry.get("value"), low, high, remark))
    found.sort(key=lambda metric: metric.name != "exact_match")
    return found + _yaw_metrics(document.get("yaw_consistency") or {})


def groups_of(document: Mapping[str, Any]) -> dict[str, list[Group]]:
    """Return what ``metrics.json`` breaks down, by title: by question type, protocol, region, turn, and the like."""
    found: dict[str, list[Group]] = {}
    for key, entries in document.items():
        name, _, by = ("accuracy", "", _ACCURACY_BY[key]) if key in _ACCURACY_BY else key.rpartition(_BY)
        if name and isinstance(entries, Mapping):
            title = f"{LABELS.get(name, name.capitalize())} by {by.replace('_', ' ')}"
            found[title] = [_group(each, entry) for each, entry in entries.items() if isinstance(entry, Mapping)]
    yaw = document.get("yaw_consistency") or {}
    answered = int(yaw.get("items", 0))
    turns = [
        Group(f"{shift}°", value, None, None, round(value * answered), answered, 0, "")
        for shift, value in yaw.get("accuracy_by_shift", {}).items()
    ]
    found["Accuracy by turn of the panorama"] = turns
    found["Accuracy by region of turned panoramas"] = [
        _group(name, entry) for name, entry in yaw.get("regions", {}).items()
    ]
    return {title: groups for title, groups in found.items() if groups}


def _yaw_metrics(yaw: Mapping[str, Any]) -> list[Metric]:
    """Return how much answers stay the same when the panorama is turned; nothing where it was not asked for."""
    left_out = {key: yaw[key] for key in ("items", "unanswered", "left_out") if yaw.get(key)}
    remark = "; ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in left_out.items())
    return [
        Metric(key, f"Turned: {key.replace('_', ' ')}", yaw[key], None, None, remark) for key in _OF_YAW if key in yaw
    ]


def _group(name: str, entry: Mapping[str, Any]) -> Group:
    low, high = _interval(entry)
    value = entry.get("accuracy", entry.get("value"))
    correct, unanswered = int(entry.get("correct", 0)), int(entry.get("unanswered", 0))
    answered = int(entry.get("answered", entry.get("items", 0)))
    others = [f"{key.replace('_', ' ')} {_text(entry[key])}" for key in entry if key not in _OF_A_GROUP]
    return Group(name, value, low, high, correct, answered, unanswered, "; ".join(others))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items()) or "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the ends of ``interval`` ([low, high]), or None twice where an entry has none."""
    interval = entry.get("interval")
    if isinstance(interval, Mapping):
        interval = [interval.get("low"), interval.get("high")]
    return (None, None) if not interval else (interval[0], interval[1])
