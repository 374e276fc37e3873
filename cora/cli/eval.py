"""``cora-eval``: answers a test table with an export and scores the answers, or scores a predictions file.

Exit codes beside those of every command: 3 when questions were left without an answer, 4 when a metric could not be
computed; 3 wins. The files are complete in both cases.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command
from cora.errors import ConfigError

if TYPE_CHECKING:
    from cora.evaluation.runner import EvaluationResult
    from cora.inference.protocol import GenerationSettings

logger = logging.getLogger(__name__)

_PATH = click.Path(path_type=Path)


@click.command("eval", cls=Command)
@click.option("--checkpoint", metavar="DIR", type=_PATH, help="Export directory of the model to evaluate.")
@click.option("--test-csv", metavar="CSV", type=_PATH, help="Questions: CSV, JSON lines or Parquet.")
@click.option("--csv-input", metavar="CSV", type=_PATH, help="Score this predictions file; needs no model.")
@click.option("--backend", default="auto", show_default=True, help="auto, vllm or transformers.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<number>.")
@click.option(
    "--output-dir", metavar="DIR", type=_PATH, help="Default: outputs/<model>-<table>. Resumes what is there."
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use the first N rows only.")
@click.option("--image-root", metavar="DIR", type=_PATH, help="Folder of the images, when it is not the table's.")
@click.option("--yaw-shifts", metavar="DEG,DEG", help="Ask about turned panoramas too, such as 0,90,180,270.")
@click.option(
    "--config", metavar="YAML", type=_PATH, help="Read its generation and evaluation; default: the run's own."
)
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="generation.max_new_tokens=32; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    checkpoint: Path | None,
    test_csv: Path | None,
    csv_input: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer the questions of a table about its panoramas, and score the answers."""
    from cora.cli.eval_report import as_document, as_table, complaints, exit_code
    from cora.evaluation.runner import score_file

    if csv_input is not None:
        ignored = [
            f"--{name.replace('_', '-')}"
            for name in ("limit", "image_root", "yaw_shifts", "config", "overrides")
            if options[name]
        ]
        if checkpoint is not None or test_csv is not None or ignored:
            raise ConfigError(
                f"--csv-input goes with --output-dir only, not with {', '.join(ignored) or 'a checkpoint'}"
            )
        result = score_file(csv_input, options["output_dir"] or Path("outputs") / f"{csv_input.stem}-scores")
    elif checkpoint is None or test_csv is None:
        raise ConfigError("give --checkpoint and --test-csv, or --csv-input (see 'cora-eval --help')")
    else:
        result = _evaluate(checkpoint, test_csv, **options)
    for line in complaints(result):
        click.echo(f"error: {line}", err=True)
    click.echo(json.dumps(as_document(result)) if as_json else as_table(result))
    ctx.exit(exit_code(result))


def _evaluate(
    checkpoint: Path,
    test_csv: Path,
    *,
    backend: str,
    device: str,
    output_dir: Path | None,
    limit: int | None,
    image_root: Path | None,
    yaw_shifts: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
) -> EvaluationResult:
    from cora.data.table import read_rows
    from cora.evaluation.metrics import CORAEvaluator
    from cora.evaluation.runner import evaluate
    from cora.evaluation.turns import parse_shifts
    from cora.inference.generator import PanoramaGenerator

    settings, choice_seed = _settings(checkpoint, config, overrides)
    shifts = () if yaw_shifts is None else parse_shifts(yaw_shifts)
    rows = read_rows(test_csv, image_root=image_root)[:limit]
    evaluator = CORAEvaluator()
    if (why := evaluator.why_unavailable()) is not None:
        logger.warning("caption metrics will be null: %s", why)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    generator = PanoramaGenerator.from_checkpoint(checkpoint, backend, device=device)
    try:
        return evaluate(
            generator,
            rows,
            settings,
            output_dir or Path("outputs") / f"{_model_name(checkpoint)}-{test_csv.stem}",
            evaluator=evaluator,
            chunk_size=generator.chunk_size,
            test_csv=test_csv,
            choice_seed=choice_seed,
            yaw_shifts=shifts,
        )
    finally:
        generator.close()


def _settings(
    checkpoint: Path, config: Path | None, overrides: tuple[str, ...]
) -> tuple[GenerationSettings, int | None]:
    """Return generation settings and `choice_seed` of `config`, or of the checkpoint's run, with overrides."""
    from cora.config.manager import ConfigManager, validate
    from cora.config.schema import CORAConfig
    from cora.inference.protocol import GenerationSettings

    if other := [text for text in overrides if not text.strip().startswith(("generation.", "evaluation."))]:
        raise ConfigError(f"--set {other[0]}: only keys of the sections generation and evaluation have an effect here")
    source = config or ConfigManager.auto_detect_config(checkpoint)
    if source is None:
        document = ConfigManager.apply_overrides({}, overrides)
        loaded = validate(CORAConfig, document, source="--set", overrides=overrides)
    else:
        logger.info("generation settings from %s", source)
        loaded = ConfigManager.load(source, overrides=overrides)
    return GenerationSettings(**loaded.generation.known()), loaded.evaluation.choice_seed


def _model_name(checkpoint: Path) -> str:
    path = checkpoint.resolve()
    return path.parent.name if path.name == "export" else path.name
