"""``cora export``: turns a checkpoint of a training run into a directory that Transformers and vLLM load."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cora.cli.errors import Command


@click.command("export", cls=Command)
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(checkpoint: Path, directory: Path, as_json: bool) -> None:
    """Export the checkpoint CKPT of a run to the new directory DIR, LoRA adapters merged."""
    from cora.training.export import export_checkpoint

    export_checkpoint(checkpoint, directory)
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint), "export_dir": str(directory)}))
    else:
        click.echo(f"export: {directory}")
