"""``cora judge``: a language model grades the answers of a predictions file, or compares those of two.

Exit codes beside those of every command: 3 when more answers than ``judge.max_failed_share`` have no verdict, or a
batch is not finished. The files are complete then, and also when the endpoint refuses to go on (2).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command
from cora.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cora.evaluation.judge.calls import Judge
    from cora.evaluation.judge.runner import JudgeResult
    from cora.evaluation.judge.samples import Sample

_PATH = click.Path(path_type=Path)


@click.command("judge", cls=Command)
@click.argument("predictions", type=_PATH)
@click.option("--model", metavar="NAME", required=True, help="The model that judges.")
@click.option("--base-url", metavar="URL", help="Its endpoint; default: endpoint.base_url, OPENAI_BASE_URL, OpenAI.")
@click.option("--against", metavar="FILE", type=_PATH, help="Compare with these predictions, each pair in both orders.")
@click.option(
    "--output-dir", metavar="DIR", type=_PATH, help="Default: judge-<model> beside PREDICTIONS. Resumes what is there."
)
@click.option("--image-root", metavar="DIR", type=_PATH, help="Folder of the images, when it is not the file's.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use the first N questions only.")
@click.option("--batch", is_flag=True, help="Hand everything in as a batch, and end.")
@click.option("--collect-batch", is_flag=True, help="Fetch what the batch came to.")
@click.option("--config", metavar="YAML", type=_PATH, help="Read its sections `judge` and `endpoint`.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="judge.temperature=null; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    predictions: Path,
    against: Path | None,
    output_dir: Path | None,
    batch: bool,
    collect_batch: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a model judge the answers in PREDICTIONS."""
    from cora.cli.judge_report import as_document, as_table, complaints, exit_code
    from cora.evaluation.judge.runner import collect_batches, run_judge, submit_batches
    from cora.inference.endpoint import ChatClient

    if batch and collect_batch:
        raise ConfigError("--batch hands in and --collect-batch fetches: give one of them")
    judge = _judge(against, **{name: options[name] for name in ("model", "base_url", "config", "overrides")})
    samples, origin = _samples(judge, predictions, against, options["image_root"], options["limit"])
    folder = output_dir or predictions.parent / _folder_name(options["model"], against)
    with ChatClient(judge.endpoint) as client:
        if batch:
            num_batches, num_requests = submit_batches(client, judge, samples, folder)
            document = {"exit_code": 0, "output_dir": str(folder), "batches": num_batches, "requests": num_requests}
            said = f"{num_requests} requests handed in as {num_batches} batches; later: the same with --collect-batch"
            click.echo(json.dumps(document) if as_json else said)
            return
        result: JudgeResult
        if collect_batch:
            result = collect_batches(client, judge, samples, folder, origin=origin)
        else:
            result = run_judge(client, judge, samples, folder, origin=origin)
    for line in complaints(result, judge.config):
        click.echo(line, err=True)
    click.echo(json.dumps(as_document(result, judge.config)) if as_json else as_table(result))
    if result.stopped is not None:
        raise result.stopped
    ctx.exit(exit_code(result, judge.config))


def _judge(
    against: Path | None, *, model: str, base_url: str | None, config: Path | None, overrides: tuple[str, ...]
) -> Judge:
    from cora.cli.settings import load_sections, open_endpoint
    from cora.evaluation.judge.calls import Judge
    from cora.evaluation.judge.protocols import PAIRWISE, POINTWISE

    loaded = load_sections(config, overrides, ("judge", "endpoint"))
    endpoint = open_endpoint(model, loaded.endpoint, base_url=base_url)
    return Judge(endpoint, POINTWISE if against is None else PAIRWISE, loaded.judge)


def _samples(
    judge: Judge, predictions: Path, against: Path | None, image_root: Path | None, limit: int | None
) -> tuple[list[Sample], dict[str, Any]]:
    """Return what is judged, and where it comes from."""
    from cora.evaluation.judge.samples import read_pairs, read_samples
    from cora.provenance import file_digest

    if image_root is not None and not image_root.is_dir():
        raise DataError(f"image root {image_root}: no such folder")
    if against is None:
        samples = read_samples(judge, predictions, image_root=image_root, limit=limit)
        return samples, {"predictions": str(predictions), "predictions_sha256": file_digest(predictions)}
    samples, num_unmatched = read_pairs(judge, predictions, against, image_root=image_root, limit=limit)
    return samples, {
        "predictions_a": str(predictions),
        "predictions_a_sha256": file_digest(predictions),
        "predictions_b": str(against),
        "predictions_b_sha256": file_digest(against),
        "questions_in_one_file_only": num_unmatched,
    }


def _folder_name(model: str, against: Path | None) -> str:
    name = f"judge-{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('-')}"
    return name if against is None else f"{name}-against-{against.resolve().parent.name}"
