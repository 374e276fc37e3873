from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cora.errors import ImageError
from cora.geometry.camera import project_to_view
from cora.geometry.sphere import lonlat_to_direction, pixel_to_lonlat
from cora.processors.contact_sheet import draw_contact_sheet, view_outline
from cora.processors.images import PanoramaImageProcessor
from cora.processors.strategies import STRATEGIES
from cora.types import ViewSpec

HEIGHT, WIDTH = 100, 200


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (-180, 20), (33, 90), (170, -60)])
def test_an_outline_is_the_border_of_its_view(yaw: float, pitch: float) -> None:
    view = ViewSpec(0, "perspective", yaw, pitch, 90, 60, roll_deg=10)
    x, y = view_outline(view, HEIGHT, WIDTH)
    there = x.isfinite()
    assert int(there.sum()) == 400
    rays = lonlat_to_direction(*pixel_to_lonlat(x[there], y[there], HEIGHT, WIDTH))
    column, row, _ = project_to_view(rays, view, 10, 10)
    to_border = torch.stack([column, 10 - column, row, 10 - row]).abs().min(dim=0).values
    assert float(to_border.max()) < 1e-6


def test_an_outline_breaks_at_the_seam_and_over_a_pole() -> None:
    for view, breaks in (
        (ViewSpec(0, "perspective", 0, 0, 90, 90), 0),
        (ViewSpec(0, "perspective", -180, 0, 90, 90), 2),
        (ViewSpec(0, "perspective", 30, 90, 90, 90), 1),
    ):
        x, _ = view_outline(view, HEIGHT, WIDTH)
        assert int(x.isnan().sum()) == breaks
        jumps = x.diff().abs()
        assert float(jumps[jumps.isfinite()].max()) < WIDTH / 2
    assert not math.isnan(float(x[0]))


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_has_a_sheet(strategy: str, tmp_path: Path) -> None:
    panorama = torch.randint(0, 256, (64, 128, 3), dtype=torch.uint8)
    path = tmp_path / "sheet.png"
    draw_contact_sheet(panorama, PanoramaImageProcessor(crop_strategy=strategy, image_size=24), path)
    with Image.open(path) as sheet:
        assert sheet.width == 1320
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 50


def test_a_sheet_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    panorama, processor = torch.zeros(8, 16, 3, dtype=torch.uint8), PanoramaImageProcessor(image_size=8)
    for path in (tmp_path / "missing" / "sheet.png", tmp_path / "sheet.xyz"):
        with pytest.raises(ImageError, match=r"sheet\.\w+: the contact sheet cannot be written"):
            draw_contact_sheet(panorama, processor, path)
