"""`cora crop` draws a contact sheet and lists the views."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cora.cli.crop import main


@pytest.fixture
def panorama(tmp_path):
    path = tmp_path / "street.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)).save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_it_writes_the_sheet_and_lists_the_views(panorama, tmp_path):
    out = tmp_path / "sheet.png"
    result = run(panorama, "--strategy", "cubemap", "--size", 16, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 4 + 2
    assert lines[4] == f"wrote {out}"
    assert [view["yaw_deg"] for view in json.loads(lines[-1])] == [0, 90, -180, -90]
    with Image.open(out) as sheet:
        assert sheet.width > 1000


def test_options_choose_the_views(panorama, tmp_path):
    options = ["--fov", 60, "--overlap", 0, "--size", 8, "--out", tmp_path / "sheet.jpg"]
    result = run(panorama, *options)
    assert result.stdout.count("perspective") == 6
    assert "fov  60.0 x  60.0" in result.stdout
    result = run(panorama, "--strategy", "anyres_max", "--max-patches", 4, *options)
    assert len(result.stdout.splitlines()) == 1 + 4 + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--strategy", "cubmap"], "cubemap"),
        (["--fov", "190"], "180"),
        (["--size", "0"], "image_size"),
        (["--out", "/nowhere/sheet.png"], "there is no folder /nowhere"),
    ],
)
def test_wrong_options_are_one_line(panorama, change, words):
    result = run(panorama, *change)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line


def test_a_file_that_is_no_panorama_is_one_line(tmp_path):
    square = tmp_path / "square.png"
    Image.new("RGB", (50, 50)).save(square)
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    for name, words in (("square.png", "no panorama"), ("broken.jpg", "not a picture"), ("gone.jpg", "no such file")):
        result = run(tmp_path / name, "--out", tmp_path / "sheet.png")
        assert result.exit_code == 2
        assert words in result.stderr.splitlines()[-1]
        assert not (tmp_path / "sheet.png").exists()
