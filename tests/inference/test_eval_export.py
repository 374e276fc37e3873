"""cora-eval as a process of its own, on a real (tiny) export."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cora
from cora.processors.loading import load_panorama

QUESTIONS = ("What is ahead?", "sky")


@pytest.fixture
def table(panoramas: list[Path], tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    rows = [(path, query, "a red tower", "red") for path in panoramas for query in QUESTIONS]
    path = tmp_path / "test.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("url", "query", "annotation", "answer"), *rows])
    return path


def cora_eval(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cora.cli.eval import main; main()", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(cora.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def predictions(folder: Path) -> list[str]:
    with (folder / "predictions.csv").open(newline="") as stream:
        return [row["prediction"] for row in csv.DictReader(stream)]


def test_bad_pictures_become_null_rows_and_exit_code_3(tiny_export: Path, table: Path, tmp_path: Path) -> None:
    with table.open("a") as stream:
        stream.write("none.jpg,sky,a,red\nsquare.png,sky,a,red\n")
    options = ("--checkpoint", tiny_export, "--test-csv", table, "--backend", "transformers", "--json")
    done = cora_eval(*options, "--output-dir", "out", "--set", "generation.max_new_tokens=6", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: 2 of 8 questions have no answer; the first is row 6 (line 8)" in done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["counts"]["answered"], document["counts"]["unanswered"]) == (6, 2)
    answers = predictions(tmp_path / "out")
    assert [answer == "" for answer in answers[6:]] == [True, True]
    assert len(set(answers[:6])) > 2


def test_a_turned_panorama_is_answered_as_its_pixels_are(
    tiny_export: Path, panoramas: list[Path], tmp_path: Path
) -> None:
    rows = []
    for index, path in enumerate(panoramas[:2]):
        panorama = load_panorama(path).numpy()
        half = panorama.shape[1] // 2
        for name, pixels in ((f"{index}.png", panorama), (f"{index}-turned.png", np.roll(panorama, half, axis=1))):
            Image.fromarray(pixels).save(tmp_path / name)
            rows += [(name, query, "red", "red|blue", "multiple_choice", "true") for query in QUESTIONS]
    with (tmp_path / "test.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("url", "query", "answer", "choices", "protocol", "yaw_equivariant"), *rows])
    options = ("--checkpoint", tiny_export, "--test-csv", "test.csv", "--backend", "transformers", "--json")
    done = cora_eval(
        *options,
        *("--output-dir", "out", "--yaw-shifts", "0,180", "--set", "generation.max_new_tokens=6"),
        folder=tmp_path,
    )
    assert done.returncode in (0, 4), done.stderr  # 4: there is no Java here for the captions
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["yaw_consistency"]["items"] == document["protocols"]["multiple_choice"]["items"] == 8
    upright = predictions(tmp_path / "out")
    with (tmp_path / "out/predictions_turned.csv").open(newline="") as stream:
        turned = [row["prediction"] for row in csv.DictReader(stream)]
    # The table has each panorama and, behind it, the same turned by half; turning swaps the two.
    number = len(QUESTIONS)
    pairs = [upright[start : start + number] for start in range(0, 8, number)]
    assert turned == [*pairs[1], *pairs[0], *pairs[3], *pairs[2]]
    assert pairs[0] != pairs[1]


def test_a_directory_that_is_no_export(tmp_path: Path, table: Path) -> None:
    done = cora_eval("--checkpoint", tmp_path, "--test-csv", table, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: checkpoint {tmp_path} is no CORA export")
    assert "Traceback" not in done.stderr


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_and_transformers_write_the_same_predictions(tiny_export: Path, table: Path, tmp_path: Path) -> None:
    for backend in ("transformers", "vllm"):
        options = ("--checkpoint", tiny_export, "--test-csv", table, "--backend", backend, "--output-dir", backend)
        done = cora_eval(*options, "--set", "generation.max_new_tokens=12", folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert predictions(tmp_path / "vllm") == predictions(tmp_path / "transformers")
