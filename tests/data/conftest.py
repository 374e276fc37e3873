from __future__ import annotations

import sys
from pathlib import Path

# For tiny_models.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from tiny_models import make_model, make_panorama

from cora.processors.processor import PanoramaProcessor


@pytest.fixture(scope="session")
def processor() -> PanoramaProcessor:
    return make_model()[1]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four questions about three panoramas."""
    for seed in range(3):
        make_panorama(seed).save(tmp_path / f"{seed}.png")
    rows = ["0.png,What is ahead?,a red cone", "0.png,sky,blue", "1.png,sky,grey and low", "2.png,sky,red"]
    path = tmp_path / "train.csv"
    path.write_text("\n".join(["url,query,annotation", *rows]) + "\n")
    return path
