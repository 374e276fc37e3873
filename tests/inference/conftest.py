from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Nothing here may reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For tiny_export.
sys.path.insert(0, str(Path(__file__).parent))
# For fake_endpoint.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_export import write_tiny_export

    return write_tiny_export(tmp_path_factory.mktemp("tiny") / "export")


@pytest.fixture(scope="session")
def panoramas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three panoramas of noise, 32x64, that look nothing like each other."""
    folder = tmp_path_factory.mktemp("panoramas")
    paths = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(coarse).resize((64, 32)).save(paths[-1])
    return paths
