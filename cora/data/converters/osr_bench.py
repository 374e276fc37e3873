"""OSR-Bench: spatial questions about indoor scenes, some about objects that are not there; one JSON file per scene.

A file has ``image_id`` and ``conversation``, a list of turns with turn_id, question, answer and skills_tested. All of
it is about objects among each other, so it stays right when the panorama is turned.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from cora.data.converters.fields import read_document, text_field
from cora.data.converters.registry import Converted
from cora.errors import DataError

__all__ = ["osr_bench"]

DIRECTIONS = ("front", "back", "left", "right", "front-left", "front-right", "back-left", "back-right")

_OBJECTS = re.compile(r"which of these objects \(([^)]+)\)")
_NOT_FOUND = re.compile(r"not found in the (?:picture|panorama|image)", re.IGNORECASE)


def osr_bench(source: Path) -> Converted:
    """Return the rows of a scene's file, or of all ``*_qa_with_negative.json`` (else ``*_qa.json``) below a folder.

    The cognitive map, a drawing of the room in a grid, has no place in a table and is left out.
    """
    converted = Converted()
    for path in _files(source):
        document = read_document(path)
        image = text_field(document, "image_id", str(path))
        turns = document.get("conversation")
        if not isinstance(turns, list):
            raise DataError(f"{path}: field 'conversation' is no list")
        prompt = document.get("pre_prompt")
        for index, turn in enumerate(turns):
            where = f"{path}, turn {index}"
            skill = text_field(turn, "skills_tested", where)
            if skill == "cognitive_map":
                converted.left_out["cognitive map"] += 1
                continue
            query = text_field(turn, "question", where)
            row = {
                "sample_id": f"{PurePosixPath(image).parent.name}-{text_field(turn, 'turn_id', where)}",
                "url": image,
                "query": f"{prompt.strip()}\n{query}" if isinstance(prompt, str) and prompt.strip() else query,
                "type": skill,
                "yaw_equivariant": "true",
            }
            converted.rows.append({**row, **_judged(turn, skill, where)})
    return converted


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    for pattern in ("*_qa_with_negative.json", "*_qa.json"):
        if files := sorted(source.rglob(pattern)):
            return files
    raise DataError(f"{source}: no *_qa_with_negative.json or *_qa.json below it")


def _judged(turn: dict[str, Any], skill: str, where: str) -> dict[str, str]:
    """Return the cells that say how a turn is judged."""
    answer = text_field(turn, "answer", where)
    cells = {"annotation": answer, "answer": answer}
    if _NOT_FOUND.search(answer):
        return {**cells, "protocol": "absent_object"}
    if skill == "object_counting":
        return {**cells, "protocol": "numeric", "tolerance": "0"}
    if skill == "relative_direction":
        return {**cells, "protocol": "multiple_choice", "choices": json.dumps(DIRECTIONS)}
    if skill != "relative_distance":
        known = "object_counting, relative_distance, relative_direction, cognitive_map"
        raise DataError(f"{where}: unknown skill '{skill}'; known: {known}")
    found = _OBJECTS.search(turn["question"])
    choices = [name.strip() for name in found.group(1).split(",")] if found else []
    if answer not in choices or len(set(choices)) < len(choices):
        return {**cells, "protocol": "exact"}
    return {**cells, "protocol": "multiple_choice", "choices": json.dumps(choices)}
