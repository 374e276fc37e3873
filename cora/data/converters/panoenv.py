"""PanoEnv-QA: spatial questions about synthetic panoramas; JSON lines with the way an answer is judged.

A record has ``image``, ``conversations``, ``question_type``, ``accu_reward_method`` and ``expected_answer``. Objects
are named with boxes in pixels of the 2560 x 1280 panorama, so most questions cannot be asked about a turned one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from cora.data.converters.fields import text_field, turns_of
from cora.data.converters.registry import Converted
from cora.data.records import read_records
from cora.errors import DataError

__all__ = ["panoenv"]

WIDTH, HEIGHT = 2560, 1280

_PROTOCOLS = {"yes_no": "yes_no", "counting": "numeric", "distance": "numeric", "mcq": "exact", "spatial": ""}
# "the lamp", or "lamp A" where there are several.
_OBJECT = re.compile(
    r"\b(?:[Tt]he (?P<name>(?:(?!the )[\w ])+?)|(?P<letter>\w+ [A-Z])) \(boundingbox: \[(\d+), (\d+), (\d+), (\d+)\]\)"
)
_SLASHES = re.compile(r"\(([\w-]+(?:/[\w-]+)+)\)")
_LIST = re.compile(r": ([\w-]+(?:, (?:or |and )?[\w-]+)+)\s*\?$")
_EITHER = re.compile(r"\b([\w-]+) or ([\w-]+)\s*\?$|\bbetween ([\w-]+) and ([\w-]+),")
_DIRECTIONAL = re.compile(r"boundingbox|\b(?:view|left|right|front|behind)\b", re.IGNORECASE)


def panoenv(source: Path) -> Converted:
    """Return the rows of a split; multiple choice where the choices can be read from the question, else exact match."""
    converted = Converted()
    for line, record in read_records(source):
        where = f"{source}, line {line}"
        query, _ = turns_of(record, where)
        answer = text_field(record, "expected_answer", where)
        method = text_field(record, "accu_reward_method", where)
        if method not in _PROTOCOLS:
            raise DataError(f"{where}: unknown accu_reward_method '{method}'; known: {', '.join(_PROTOCOLS)}")
        choices = _choices(query, answer) if method == "mcq" else []
        row = {
            "sample_id": str(line),
            "url": text_field(record, "image", where),
            "query": query,
            "annotation": answer,
            "type": method,
            "protocol": "multiple_choice" if choices else _PROTOCOLS[method],
            "choices": json.dumps(choices) if choices else "",
            "tolerance": "0" if method == "counting" else "",
            "yaw_equivariant": "false" if _DIRECTIONAL.search(query) else "true",
            **_target(query),
        }
        converted.rows.append({**row, "answer": answer} if row["protocol"] else row)
    return converted


def _choices(query: str, answer: str) -> list[str]:
    """Return the choices that a question names, where the answer is one of them; else nothing."""
    named = [
        [name for found in _SLASHES.findall(query) for name in found.split("/")],
        [match["name"] or match["letter"] for match in _OBJECT.finditer(query)],
        [re.sub(r"^(?:or|and) ", "", name) for found in _LIST.findall(query) for name in found.split(", ")],
        [name for found in _EITHER.findall(query) for name in found if name],
    ]
    wanted = re.sub(r"^the ", "", answer.lower())
    for names in named:
        lowered = [name.lower() for name in names]
        # Two objects of one name cannot be told apart by it.
        if len(names) > 1 and wanted in lowered and len(set(lowered)) == len(names):
            return names
    return []


def _target(query: str) -> dict[str, str]:
    """Return the direction of the only object of a question."""
    boxes = {match.groups()[2:] for match in _OBJECT.finditer(query)}
    if len(boxes) != 1:
        return {}
    left, top, right, bottom = (int(edge) for edge in boxes.pop())
    yaw = ((left + right) / 2 / WIDTH - 0.5) * 360
    pitch = (0.5 - (top + bottom) / 2 / HEIGHT) * 180
    if abs(pitch) > 90 or abs(yaw) > 180:
        return {}
    return {"target_yaw_deg": f"{yaw:.2f}", "target_pitch_deg": f"{pitch:.2f}"}
