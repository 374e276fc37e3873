"""``cora-train``: runs the training stages of a configuration and exports the model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cora.cli.errors import Command
from cora.cli.options import config_options


@click.command("train", cls=Command)
@config_options
@click.option(
    "--resume",
    metavar="auto|PATH",
    help="Go on with the newest run (or start one), with a run folder, or from one of its checkpoints.",
)
@click.option("--stage", metavar="NAME", help="Run this stage only, on the best checkpoints of the stages before it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(
    config: str,
    overrides: tuple[str, ...],
    strict: bool,
    resume: str | None,
    stage: str | None,
    as_json: bool,
) -> None:
    """Train a model: self-supervised views, then resampler, then language model; and export it."""
    from cora.config.manager import ConfigManager

    settings = ConfigManager.load(config, overrides=overrides, strict=strict)
    from cora.training.trainer import CORATrainer

    result = CORATrainer(settings, experiment=Path(config).stem, resume=resume, stage=stage).train()
    from cora.training.processes import is_first

    if not is_first():
        return
    if as_json:
        document = {"run_dir": str(result.run_dir), "export_dir": str(result.export_dir), **result.best_metrics}
        click.echo(json.dumps(document))
        return
    for stage, metric in result.best_metrics.items():
        click.echo(f"{stage}: best loss {metric:.4f}" if metric is not None else f"{stage}: done")
    click.echo(f"run:    {result.run_dir}\nexport: {result.export_dir}")
