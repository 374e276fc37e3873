"""``cora-eval``: answers a test table with an export and scores the answers, or scores a predictions file.

Exit codes beside those of every command: 3 when questions were left without an answer, 4 when a metric could not be
computed; 3 wins. The files are complete in both cases. Killed or interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command
from cora.cli.settings import check_overrides, load_sections
from cora.cli.shard import Shard, parse_shard
from cora.errors import ConfigError

if TYPE_CHECKING:
    from cora.config.schema import CORAConfig, EvaluationConfig
    from cora.evaluation.extraction import ExtractionModel
    from cora.evaluation.metrics import CORAEvaluator
    from cora.evaluation.runner import EvaluationResult, PredictionResult
    from cora.inference.generator import PanoramaGenerator
    from cora.inference.protocol import GenerationSettings
    from cora.inference.ray_executor import RayGenerator

logger = logging.getLogger(__name__)

_PATH = click.Path(path_type=Path)


@click.command("eval", cls=Command)
@click.option("--checkpoint", metavar="DIR", type=_PATH, help="Export directory of the model; with openai its name.")
@click.option("--test-csv", metavar="CSV", type=_PATH, help="Questions: CSV, JSON lines or Parquet.")
@click.option(
    "--csv-input",
    metavar="CSV",
    type=_PATH,
    multiple=True,
    help="Score this predictions file, or several as one; no model.",
)
@click.option("--backend", default="auto", show_default=True, help="auto, vllm, transformers or openai.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<number>.")
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where engines run."
)
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Engines with ray; default: one per GPU.")
@click.option(
    "--output-dir", metavar="DIR", type=_PATH, help="Default: outputs/<model>-<table>. Resumes what is there."
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use the first N rows only.")
@click.option(
    "--shard", metavar="I/N", callback=parse_shard, help="Use the I-th of N parts only; an image is in one of them."
)
@click.option("--predict-only", is_flag=True, help="Answer without scoring; --csv-input scores later.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of sampled answers and intervals.")
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
    csv_input: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Answer the questions of a table about its panoramas, and score the answers."""
    from cora.cli.eval_report import as_document, as_table, complaints, exit_code
    from cora.evaluation.report import write_report
    from cora.evaluation.runner import score_file

    result: EvaluationResult | PredictionResult
    if csv_input:
        ignored = [
            f"--{name.replace('_', '-')}"
            for name in ("limit", "shard", "predict_only", "image_root", "yaw_shifts", "workers")
            if options[name]
        ]
        if checkpoint is not None or test_csv is not None or ignored:
            raise ConfigError(
                "--csv-input goes with --output-dir, --seed, --config and --set evaluation.… only, not with "
                f"{', '.join(ignored) or 'a checkpoint'}"
            )
        output_dir = options["output_dir"] or Path("outputs") / f"{csv_input[0].stem}-scores"
        config = load_sections(options["config"], options["overrides"], ("evaluation", "endpoint"))
        with _extractor(config, output_dir) as extractor:
            evaluator = _evaluator(config.evaluation)
            result = score_file(csv_input, output_dir, evaluator=evaluator, seed=options["seed"], extractor=extractor)
    elif checkpoint is None or test_csv is None:
        raise ConfigError("give --checkpoint and --test-csv, or --csv-input (see 'cora-eval --help')")
    else:
        result = _evaluate(checkpoint, test_csv, **options)
    if not options["predict_only"]:
        write_report(result.output_dir)
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
    executor: str,
    workers: int | None,
    output_dir: Path | None,
    limit: int | None,
    shard: Shard | None,
    predict_only: bool,
    seed: int,
    image_root: Path | None,
    yaw_shifts: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
) -> EvaluationResult | PredictionResult:
    from cora.data.table import read_rows
    from cora.evaluation.runner import evaluate, predict
    from cora.evaluation.turns import parse_shifts
    from cora.inference.generator import PanoramaGenerator

    if executor == "ray" and backend == "openai":
        raise ConfigError("--executor ray runs engines, and with --backend openai a server does: leave one of them out")
    if executor != "ray" and workers is not None:
        raise ConfigError("--workers goes with --executor ray")
    settings, loaded = _settings(checkpoint, config, overrides)
    section = loaded.evaluation
    has_endpoint = backend == "openai" or section.extraction_model is not None
    check_overrides(overrides, ("generation", "evaluation", *(["endpoint"] if has_endpoint else [])))
    settings = replace(settings, seed=seed)
    shifts = () if yaw_shifts is None else parse_shifts(yaw_shifts)
    rows = read_rows(test_csv, image_root=image_root, limit=limit)
    name = f"{_model_name(checkpoint)}-{test_csv.stem}"
    if shard is not None:
        rows, name = shard.of(rows), f"{name}-{shard.number}of{shard.count}"
    evaluator = _evaluator(section)
    if not predict_only and (why := evaluator.why_unavailable()) is not None:
        logger.warning("caption metrics will be null: %s", why)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    generator: PanoramaGenerator | RayGenerator
    if executor == "ray":
        from cora.inference.ray_executor import RayGenerator

        generator = RayGenerator(checkpoint, backend, device=device, num_workers=workers)
    elif backend == "openai":
        generator = _open_endpoint(str(checkpoint), config, overrides, device)
    else:
        generator = PanoramaGenerator.from_checkpoint(checkpoint, backend, device=device)
    folder = output_dir or Path("outputs") / name
    chunk_size = generator.chunk_size
    try:
        if predict_only:
            return predict(generator, rows, settings, folder, chunk_size=chunk_size, choice_seed=section.choice_seed)
        with _extractor(loaded, folder) as extractor:
            return evaluate(
                generator,
                rows,
                settings,
                folder,
                evaluator=evaluator,
                chunk_size=chunk_size,
                test_csv=test_csv,
                choice_seed=section.choice_seed,
                extractor=extractor,
                yaw_shifts=shifts,
            )
    finally:
        generator.close()


def _settings(
    checkpoint: Path, config: Path | None, overrides: tuple[str, ...]
) -> tuple[GenerationSettings, CORAConfig]:
    """Return generation settings and the rest of `config`, or of the checkpoint's run, with overrides."""
    from cora.config.manager import ConfigManager, validate
    from cora.config.schema import CORAConfig
    from cora.inference.protocol import GenerationSettings

    source = config or ConfigManager.auto_detect_config(checkpoint)
    if source is None:
        document = ConfigManager.apply_overrides({}, overrides)
        loaded = validate(CORAConfig, document, source="--set", overrides=overrides)
    else:
        logger.info("generation settings from %s", source)
        loaded = ConfigManager.load(source, overrides=overrides)
    return GenerationSettings(**loaded.generation.known()), loaded


def _evaluator(section: EvaluationConfig) -> CORAEvaluator:
    from cora.evaluation.metrics import CORAEvaluator

    return CORAEvaluator(java=section.java, tokenizer=section.tokenizer, metrics=section.caption_metrics)


@contextmanager
def _extractor(config: CORAConfig, output_dir: Path) -> Iterator[ExtractionModel | None]:
    """Yield the model that reads what no rule can, where one is configured; it is opened before anything is asked."""
    section = config.evaluation
    if section.extraction_model is None:
        if section.extraction_base_url is not None:
            raise ConfigError("evaluation.extraction_base_url has no effect without evaluation.extraction_model")
        yield None
        return
    from cora.cli.settings import open_endpoint
    from cora.evaluation.extraction import ExtractionModel

    endpoint = open_endpoint(section.extraction_model, config.endpoint, base_url=section.extraction_base_url)
    with closing(ExtractionModel(endpoint, output_dir)) as model:
        yield model


def _open_endpoint(model: str, config: Path | None, overrides: tuple[str, ...], device: str) -> PanoramaGenerator:
    from cora.cli.settings import open_endpoint
    from cora.inference.generator import PanoramaGenerator

    if device != "auto":
        raise ConfigError(f"--device {device}: the server of the back end openai has its own")
    section = load_sections(config, overrides, ("generation", "evaluation", "endpoint")).endpoint
    return PanoramaGenerator.from_endpoint(open_endpoint(model, section), image_width=section.image_width)


def _model_name(checkpoint: Path) -> str:
    path = checkpoint.resolve()
    return path.parent.name if path.name == "export" else path.name
