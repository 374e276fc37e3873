"""``cora crop``: what a crop strategy makes of a panorama, as a contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cora.cli.errors import Command


@click.command("crop", cls=Command)
@click.argument("panorama", type=click.Path(path_type=Path))
@click.option("--strategy", metavar="NAME", default="anyres_e2p", show_default=True, help="The crop strategy.")
@click.option("--size", metavar="N", type=int, default=224, show_default=True, help="Side of a view in pixels.")
@click.option("--fov", metavar="DEG", type=float, default=90.0, show_default=True, help="Field of view of a view.")
@click.option("--overlap", metavar="R", type=float, default=0.5, show_default=True, help="Part that neighbours share.")
@click.option("--max-patches", metavar="N", type=int, default=9, show_default=True, help="Views of anyres, anyres_max.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), default="sheet.png", show_default=True,
              help="The picture to write.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="End with one JSON list of the views.")
def main(panorama: Path, strategy: str, out: Path, as_json: bool, **options: Any) -> None:
    """Cut PANORAMA into views and draw them, with their outlines on the panorama."""
    from cora.errors import ImageError
    from cora.processors.contact_sheet import draw_contact_sheet
    from cora.processors.images import PanoramaImageProcessor

    processor = PanoramaImageProcessor(
        crop_strategy=strategy,
        image_size=options["size"],
        fov_deg=options["fov"],
        overlap_ratio=options["overlap"],
        max_patches=options["max_patches"],
    )
    if not out.resolve().parent.is_dir():
        raise ImageError(f"{out}: there is no folder {out.resolve().parent}")
    draw_contact_sheet(processor.load(panorama, whole=True), processor, out)
    for view in processor.views:
        kind = "global" if view.is_global else view.projection
        looks = f"yaw {view.yaw_deg:7.1f}  pitch {view.pitch_deg:6.1f}  fov {view.hfov_deg:5.1f} x {view.vfov_deg:5.1f}"
        click.echo(f"{view.index:3}  {kind:<15}  {looks}")
    click.echo(f"wrote {out}")
    if as_json:
        click.echo(json.dumps([view.to_dict() for view in processor.views]))
