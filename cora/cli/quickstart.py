"""``cora quickstart``: from nothing to a trained and evaluated panorama model, offline."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from cora.cli.errors import Command


@click.command("quickstart", cls=Command)
@click.option(
    "--config",
    metavar="YAML",
    type=click.Path(path_type=Path),
    default="configs/tiny.yaml",
    show_default=True,
    help="Configuration file.",
)
@click.option(
    "--runs-dir", type=click.Path(path_type=Path), default="runs", show_default=True, help="Where everything goes."
)
@click.option("--train-scenes", default=4000, show_default=True, type=click.IntRange(min=8), help="Panoramas to learn.")
@click.option("--test-scenes", default=40, show_default=True, type=click.IntRange(min=1), help="Panoramas held out.")
@click.option(
    "--tower-steps", default=400, show_default=True, type=click.IntRange(min=1), help="Pretraining of the vision tower."
)
@click.option("--backend", default="auto", show_default=True, help="Of the evaluation: auto, vllm or transformers.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Replace a key of the configuration.")
def main(
    config: Path,
    runs_dir: Path,
    train_scenes: int,
    test_scenes: int,
    tower_steps: int,
    backend: str,
    overrides: tuple[str, ...],
) -> None:
    """Make panoramas and tiny towers, train, export, evaluate beside blind baselines; the last line is JSON.

    What an earlier quickstart with the same options made is used again.
    """
    from cora.quickstart.report import evaluate_run
    from cora.quickstart.workspace import Workspace

    started = time.monotonic()
    with Workspace.open(runs_dir / "quickstart") as workspace:
        splits = workspace.make_data(train_scenes=train_scenes, test_scenes=test_scenes)
        settings = workspace.load_config(config, runs_dir=runs_dir, overrides=overrides)
        workspace.make_towers(settings, splits["train"], steps=tower_steps)
        run_dir = workspace.train(settings)
        report = evaluate_run(run_dir, splits, settings, backend=backend)
    report.seconds = round(time.monotonic() - started, 1)
    click.echo(report.as_table())
    click.echo(json.dumps(report.as_document()))
