"""Boxes on the sphere: areas and overlaps against formulas, symmetry and counting random directions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cora.errors import GeometryError
from cora.geometry.boxes import SphericalBox, box_area, box_intersection, box_iou
from cora.geometry.camera import project_to_view
from cora.types import ViewSpec

NUM_POINTS = 400_000


def random_directions() -> torch.Tensor:
    points = torch.randn(NUM_POINTS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return points / torch.linalg.vector_norm(points, dim=-1, keepdim=True)


POINTS = random_directions()


def inside(box: SphericalBox) -> torch.Tensor:
    """Return which of the random directions a camera with the field of view of the box sees."""
    spec = ViewSpec(
        index=0,
        projection="perspective",
        yaw_deg=box.yaw_deg,
        pitch_deg=box.pitch_deg,
        hfov_deg=box.hfov_deg,
        vfov_deg=box.vfov_deg,
    )
    return project_to_view(POINTS, spec, 8, 8)[2]


def counted(mask: torch.Tensor) -> tuple[float, float]:
    """Return the solid angle of the directions counted, and four standard deviations of it."""
    share = mask.double().mean().item()
    return 4 * math.pi * share, 4 * 4 * math.pi * math.sqrt(max(share, 1e-5) / NUM_POINTS)


PAIRS = {
    "ahead": (SphericalBox(0, 0, 60, 40), SphericalBox(20, 10, 50, 50)),
    "inside": (SphericalBox(30, -20, 80, 60), SphericalBox(32, -18, 20, 10)),
    "across the seam": (SphericalBox(175, 5, 40, 30), SphericalBox(-170, 0, 40, 30)),
    "seam, written differently": (SphericalBox(185, 0, 30, 30), SphericalBox(-175, 0, 30, 30)),
    "near the pole": (SphericalBox(0, 75, 50, 50), SphericalBox(120, 80, 50, 40)),
    "over the pole": (SphericalBox(10, 90, 60, 30), SphericalBox(-170, 70, 40, 80)),
    "south pole": (SphericalBox(45, -88, 30, 60), SphericalBox(-90, -80, 45, 45)),
    "wide": (SphericalBox(0, 0, 170, 100), SphericalBox(150, 20, 160, 60)),
    "a cross": (SphericalBox(0, 0, 120, 20), SphericalBox(0, 0, 20, 120)),
    "apart": (SphericalBox(0, 0, 60, 60), SphericalBox(180, 0, 60, 60)),
    "hardly": (SphericalBox(0, 0, 40, 40), SphericalBox(36, 18, 40, 40)),
}


@pytest.mark.parametrize(("first", "second"), PAIRS.values(), ids=PAIRS.keys())
def test_areas_and_overlaps_against_random_directions(first: SphericalBox, second: SphericalBox) -> None:
    in_first, in_second = inside(first), inside(second)
    for box, mask in ((first, in_first), (second, in_second)):
        area, error = counted(mask)
        assert box_area(box) == pytest.approx(area, abs=error)
    shared, error = counted(in_first & in_second)
    assert box_intersection(first, second) == pytest.approx(shared, abs=error)
    union, _ = counted(in_first | in_second)
    assert box_iou(first, second) == pytest.approx(shared / union, abs=3 * error / union)


def test_convention_a_cube_face_is_a_sixth_of_the_sphere() -> None:
    assert box_area(SphericalBox(0, 0, 90, 90)) == pytest.approx(4 * math.pi / 6, rel=1e-12)


def test_small_boxes_are_flat() -> None:
    degree = math.radians(1)
    assert box_area(SphericalBox(0, 0, 0.1, 0.2)) == pytest.approx(0.02 * degree**2, rel=1e-5)
    first, second = SphericalBox(0, 0, 0.02, 0.02), SphericalBox(0.01, 0, 0.02, 0.02)
    assert box_iou(first, second) == pytest.approx(1 / 3, rel=1e-4)


boxes = st.builds(
    SphericalBox,
    yaw_deg=st.floats(-360, 360),
    pitch_deg=st.floats(-90, 90),
    hfov_deg=st.floats(1, 175),
    vfov_deg=st.floats(1, 175),
)


@given(first=boxes, second=boxes, turn=st.floats(-360, 360))
def test_overlap_is_symmetric_and_does_not_change_with_a_turn(
    first: SphericalBox, second: SphericalBox, turn: float
) -> None:
    overlap = box_iou(first, second)
    assert 0.0 <= overlap <= 1.0
    assert box_iou(second, first) == pytest.approx(overlap, abs=1e-9)
    turned = [replace(box, yaw_deg=box.yaw_deg + turn) for box in (first, second)]
    assert box_iou(*turned) == pytest.approx(overlap, abs=1e-9)
    mirrored = [replace(box, yaw_deg=-box.yaw_deg, pitch_deg=-box.pitch_deg) for box in (first, second)]
    assert box_iou(*mirrored) == pytest.approx(overlap, abs=1e-9)


@given(box=boxes)
def test_a_box_is_itself(box: SphericalBox) -> None:
    assert box_iou(box, box) == pytest.approx(1.0, abs=1e-9)
    assert box_iou(box, replace(box, yaw_deg=box.yaw_deg + 360)) == pytest.approx(1.0, abs=1e-9)
    assert box.contains(box.yaw_deg, box.pitch_deg)
    assert not box.contains(box.yaw_deg + 180, -box.pitch_deg)


@pytest.mark.parametrize(
    "angles", [(0, 91, 10, 10), (0, 0, 0, 10), (0, 0, 10, 180), (math.nan, 0, 10, 10), (0, 0, math.nan, 10)]
)
def test_angles_that_are_no_box(angles: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="box"):
        SphericalBox(*angles)
