"""Draws the picture at the top of the README: a panorama with the outlines of its views, and the views themselves.

python docs/figures.py docs/assets/views.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from cora.data.synthetic import random_scene, render_panorama
from cora.processors.contact_sheet import view_outline
from cora.processors.images import PanoramaImageProcessor

SEED = 7
HEIGHT, WIDTH = 512, 1024
SIZE = 192


def draw(path: Path) -> None:
    """Write the picture."""
    panorama = torch.from_numpy(render_panorama(random_scene(SEED), height=HEIGHT, width=WIDTH))
    processor = PanoramaImageProcessor(image_size=SIZE)
    views = (processor.crop(panorama) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, len(views), height_ratios=(4.2, 1))
    top = figure.add_subplot(grid[0, :])
    top.imshow(panorama)
    for number, view in enumerate(processor.views):
        if not view.is_global:
            top.plot(*view_outline(view, HEIGHT, WIDTH), linewidth=1.6, color=f"C{number}")
    top.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), xticks=[], yticks=[])
    for number, (view, picture) in enumerate(zip(processor.views, views, strict=True)):
        axes = figure.add_subplot(grid[1, number])
        axes.imshow(picture)
        axes.set_title("global" if view.is_global else f"yaw {view.yaw_deg:.0f}°", fontsize=9, color=f"C{number}")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85} if path.suffix == ".jpg" else {})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
