"""Makes the folder of a run to report on: the colours of its panoramas are coordinates, its texts try to break out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cora.data.table import read_rows
from cora.evaluation.runner import evaluate
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed
from cora.types import ViewSpec

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
ANSWERS = {"What is ahead?": "a red ball", "What colour?": "red", HOSTILE: HOSTILE}


class Answering:
    """Answers by the question; has none for the panorama called ``failing``."""

    name, model_digest, processor_digest = "fake", "m", "p"
    views = (
        ViewSpec(0, "equirectangular", 0.0, 0.0, 360.0, 180.0, is_global=True),
        ViewSpec(1, "perspective", 90.0, 30.0, 60.0, 60.0),
    )

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        return [
            failed("no answer <b>today</b>")
            if "failing" in str(request.image)
            else GenerationResult(ANSWERS[request.query], (1,), "stop")
            for request in requests
        ]

    def close(self) -> None:
        pass


def coordinates(height: int, width: int) -> Image.Image:
    """Return a panorama whose red grows with the column and whose green grows with the row."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[..., 0] = ((np.arange(width) + 0.5) / width * 255)[None, :]
    pixels[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    return Image.fromarray(pixels)


def make_run(folder: Path, *, num_panoramas: int = 3) -> Path:
    """Return the folder of an evaluation of three questions about each panorama, the last of which fails."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.jpg" for number in range(num_panoramas - 1)] + ["failing.jpg"]
    lines = [("url", "query", "annotation", "type", "answer")]
    for number, name in enumerate(names):
        # The comment makes the files differ: questions about equal ones may be asked once.
        coordinates(512, 1024).save(folder / name, quality=95, comment=name)
        lines += [
            (name, "What is ahead?", "a red ball" if number else "a blue cube stands there", "what", ""),
            (name, "What colour?", "", "colour", "blue" if number else "red"),
            (name, HOSTILE, HOSTILE, HOSTILE, ""),
        ]
    with (folder / "test.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([[*line[:2], line[2] or line[4], *line[3:]] for line in lines])
    evaluate(Answering(), read_rows(folder / "test.csv"), output_dir=folder / "run", progress=False)
    return folder / "run"


def page_data(path: Path) -> dict[str, Any]:
    """Return what the script of a report is given."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found.group(1)))
