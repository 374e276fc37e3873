"""``cora metrics``: the files that caption metrics need and no package brings."""

from __future__ import annotations

from pathlib import Path

import click

from cora.cli.errors import Command, Group


@click.group("metrics", cls=Group)
def main() -> None:
    """Get what caption metrics need."""


@main.command("download", cls=Command)
@click.option("--from", "source", metavar="URL|DIR", help="Mirror: an address or a folder; default: Maven Central.")
@click.option(
    "--to", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Default: CORA_SPICE_LIB or cache."
)
def download(source: str | None, folder: Path | None) -> None:
    """Fetch the parser of SPICE (Stanford CoreNLP 3.6.0 with models, some 400 MB), checked by its checksum."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from cora.evaluation.spice_files import SOURCE, download_spice_files

    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks = {}

        def show(name: str, done: int, size: int | None) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name)
            shown.update(tasks[name], completed=done, total=size)

        found = download_spice_files(source or SOURCE, folder, on_bytes=show)
    click.echo(str(found))
