"""``cora report``: the page of a run that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cora.cli.errors import Command


@click.command("report", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="HTML", type=click.Path(path_type=Path), help="Where it goes; default: RUN/report.html.")
@click.option(
    "--max-pictures", default=100, show_default=True, type=click.IntRange(min=0), help="Most panoramas in the file."
)
@click.option(
    "--viewer-width",
    default=1024,
    show_default=True,
    type=click.IntRange(min=2, max=8192),
    help="Pixels across of a panorama to look around in.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(run: Path, out: Path | None, max_pictures: int, viewer_width: int, as_json: bool) -> None:
    """Write one HTML file with the scores, answers and panoramas of RUN, the output folder of an evaluation."""
    from cora.evaluation.report import ReportOptions, write_report

    path = write_report(run, out, options=ReportOptions(max_pictures=max_pictures, viewer_width=viewer_width))
    size = path.stat().st_size
    click.echo(json.dumps({"report": str(path), "bytes": size}) if as_json else f"{path} ({size / 1e6:.1f} MB)")
