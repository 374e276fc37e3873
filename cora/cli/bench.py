"""``cora-bench``: times operations beside their peers."""

from __future__ import annotations

import json
from typing import Any

import click

from cora.cli.errors import Group


@click.group("bench", cls=Group)
def main() -> None:
    """Time CORA's operations beside their peers."""


@main.command("crop")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=11, show_default=True, help="Timed calls.")
@click.option("--threads", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where it runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of rows instead of a table.")
def crop(rounds: int, threads: int, device: str, as_json: bool) -> None:
    """Time cutting a ring of views from a panorama, and compare the pictures with the truth."""
    import torch

    from cora.bench.crop import run
    from cora.errors import BackendUnavailable

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("--device cuda: torch sees no CUDA device here (see 'cora doctor')")
    rows = run(rounds=rounds, threads=threads, device=device)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _print_crop_table(rows)


def _print_crop_table(rows: list[dict[str, Any]]) -> None:
    line = "{:<13} {:<14} {:<26} {:>9} {:>17} {:>8} {:>8}"
    click.echo(line.format("panorama", "views", "candidate", "median ms", "quartiles", "slower", "PSNR dB"))
    for row in rows:
        quartiles = f"{row['p25_ms']:.1f} .. {row['p75_ms']:.1f}"
        slower = f"{row['times_fastest']:.1f} x"
        click.echo(
            line.format(
                row["panorama"],
                row["views"],
                row["candidate"],
                f"{row['median_ms']:.1f}",
                quartiles,
                slower,
                f"{row['psnr_db']:.1f}",
            )
            + (f"  {row['note']}" if row["note"] else "")
        )
    first = rows[0]
    click.echo(f"{first['rounds']} rounds, threads: {first['threads']}, {first['device']}, torch {first['torch']}")
