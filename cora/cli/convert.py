"""``cora convert``: a table from the published layout of another data set."""

from __future__ import annotations

from pathlib import Path

import click

from cora.cli.errors import Command


@click.command("convert", cls=Command)
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(name: str, source: Path, out: Path) -> None:
    """Write OUT.csv from SOURCE, a data set in the layout NAME: osr-bench, panoenv, panovqa or quic360."""
    from cora.data.converters.registry import convert

    converted = convert(name, source, out)
    click.echo(f"{out}: {len(converted.rows)} rows")
    for reason, count in converted.left_out.items():
        click.echo(f"left out: {count}, {reason}")
