"""What can be seen in one view, as phrases: the captions that a contrastive vision tower learns from."""

from __future__ import annotations

import math

from cora.data.synthetic.world import COLOURS, LANDMARKS, SHAPES, Scene, SceneObject
from cora.errors import GeometryError
from cora.types import ViewSpec

__all__ = ["PHRASES", "visible_phrases"]

PHRASES: tuple[str, ...] = (
    *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
    *LANDMARKS,
    *(f"{colour} balloon" for colour in COLOURS),
)
# An object whose centre is this close to the edge is half cut: neither clearly in the view nor out of it.
EDGE_MARGIN_DEG = 2.0


def _is_visible(item: SceneObject, view: ViewSpec) -> bool:
    if view.is_global:
        # Small things drown in a picture of everything; what floats above is seen nowhere else.
        return item.kind == "balloon"
    offset = (item.yaw_deg - view.yaw_deg + 180.0) % 360.0 - 180.0
    inside = abs(offset) < view.hfov_deg / 2 - EDGE_MARGIN_DEG
    if item.kind != "balloon" or not inside:
        return inside
    # Gnomonic height of the centre in a level view: tan(elevation) / cos(offset).
    height = math.tan(math.radians(item.elevation_deg)) / max(math.cos(math.radians(offset)), 1e-6)
    return height < math.tan(math.radians(view.vfov_deg / 2))


def visible_phrases(scene: Scene, view: ViewSpec) -> list[str]:
    """Return the entries of `PHRASES` that a level view (or a global one) of a scene shows.

    Raises:
        GeometryError: The view looks up or down, or is rolled.
    """
    if not view.is_global and (view.pitch_deg or view.roll_deg):
        raise GeometryError(f"view {view.index}: what it shows is known for level views only, not for {view}")
    return [f"{item.colour} {item.kind}".strip() for item in scene.everything if _is_visible(item, view)]
