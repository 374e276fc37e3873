"""A contact sheet: a panorama with the outlines of its views, and the views as a model gets them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cora.errors import ImageError
from cora.geometry.camera import content_box, rays_at
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_pixel
from cora.processors.images import PanoramaImageProcessor
from cora.types import ViewSpec

__all__ = ["draw_contact_sheet", "view_outline"]

# What is shown of the panorama; the views are cut from all of it.
_SHOWN_WIDTH = 1600
_VIEWS_PER_ROW = 8
_INCHES = 12.0


def view_outline(view: ViewSpec, height: int, width: int, num_points: int = 100) -> tuple[Tensor, Tensor]:
    """Return the border of a view in panorama pixels, clockwise from its upper left corner.

    Args:
        view: The view.
        height: Rows of the panorama.
        width: Columns of the panorama.
        num_points: Points along each side.

    Returns:
        x and y, each float64; NaN wherever the line crosses the seam or a pole, so that a plot breaks there.
    """
    t = torch.linspace(0, 1, num_points, dtype=torch.float64)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    across, down = torch.cat([t, one, t.flip(0), zero]), torch.cat([zero, t, one, t.flip(0)])
    # On a picture of many pixels, of which a letterboxed view shows the scene in a part only.
    top, left, box_height, box_width = content_box(view, 1000, 1000)
    rays = rays_at(view, left + across * box_width, top + down * box_height, 1000, 1000)
    x, y = lonlat_to_pixel(*direction_to_lonlat(rays), height, width)
    pieces_x, pieces_y = [x[:1]], [y[:1]]
    for position in range(1, len(x)):
        if abs(float(x[position] - x[position - 1])) > width / 2:
            pieces_x.append(torch.full((1,), math.nan, dtype=x.dtype))
            pieces_y.append(torch.full((1,), math.nan, dtype=x.dtype))
        pieces_x.append(x[position : position + 1])
        pieces_y.append(y[position : position + 1])
    return torch.cat(pieces_x), torch.cat(pieces_y)


def draw_contact_sheet(panorama: Tensor, processor: PanoramaImageProcessor, path: Path) -> None:
    """Write the sheet of a panorama uint8[H, W, 3] as a picture; the file's ending chooses its format.

    Raises:
        ImageError: The file cannot be written, or its ending names no format.
    """
    views = processor.views
    rows = math.ceil(len(views) / _VIEWS_PER_ROW)
    columns = max(4, math.ceil(len(views) / rows))
    side = _INCHES / columns
    figure = Figure(figsize=(_INCHES, _INCHES / 2 + rows * (side + 0.25)), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[_INCHES / 2, *[side + 0.25] * rows])
    _draw_panorama(figure.add_subplot(grid[0, :]), panorama, processor)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (processor.image_mean, processor.image_std))
    pictures = (processor.crop(panorama) * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
    for number, (view, picture) in enumerate(zip(views, pictures, strict=True)):
        axes = figure.add_subplot(grid[1 + number // columns, number % columns])
        axes.imshow(picture.numpy())
        axes.set_title(_label(view), fontsize=8, color=_colour(view))
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=_colour(view), linewidth=2)
    try:
        figure.savefig(path, dpi=110, pil_kwargs={"quality": 85} if path.suffix in (".jpg", ".jpeg") else {})
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: the contact sheet cannot be written: {error}") from error


def _draw_panorama(axes: Any, panorama: Tensor, processor: PanoramaImageProcessor) -> None:
    step = max(1, panorama.shape[1] // _SHOWN_WIDTH)
    shown = panorama[::step, ::step]
    height, width, _ = shown.shape
    axes.imshow(shown.numpy(), extent=(0, width, height, 0))
    for view in processor.views:
        if view.is_global:
            continue
        x, y = (coordinate.numpy() for coordinate in view_outline(view, height, width))
        axes.plot(x, y, color="black", linewidth=2.6, alpha=0.5)
        axes.plot(x, y, color=_colour(view), linewidth=1.5)
        # Numbers at the very edge would stick out.
        column = min(max(view.yaw_deg / 360 + 0.5, 0.015), 0.985) * width
        row = min(max(0.5 - view.pitch_deg / 180, 0.04), 0.96) * height
        axes.text(
            column, row, str(view.index),
            color="white", fontsize=9, ha="center", va="center",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": _colour(view), "edgecolor": "black", "linewidth": 0.5},
        )  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_xticks([width * part / 8 for part in range(9)], [f"{degrees}°" for degrees in range(-180, 181, 45)])
    axes.set_yticks([height * part / 4 for part in range(5)], [f"{degrees}°" for degrees in range(90, -91, -45)])
    axes.tick_params(labelsize=7)


def _label(view: ViewSpec) -> str:
    if view.is_global:
        return f"{view.index}: global"
    looks = f"{view.index}: yaw {view.yaw_deg:.0f}° pitch {view.pitch_deg:.0f}°"
    return f"{looks}\n{view.hfov_deg:.0f}° x {view.vfov_deg:.0f}°"


def _colour(view: ViewSpec) -> str:
    return "black" if view.is_global else f"C{view.index % 10}"
