"""Answers per second of an evaluation run beside one question at a time, and seconds of the caption metrics.

One at a time is what a short script does: cut the views of the question's panorama, ``generate``, decode. The run is
``cora-eval``'s, journal included, on the same weights; each round has panoramas of its own, asked three questions and
then three others. The model has the configuration's sizes and is trained for a moment, so that its answers, right or
wrong, are as long as those it was trained on.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cora.bench.captions import run as time_captions
from cora.bench.timing import environment
from cora.bench.train import prepare
from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig
from cora.data.synthetic import write_split
from cora.data.table import Row, read_rows
from cora.evaluation.predictions import PREDICTIONS_NAME, read_predictions
from cora.evaluation.runner import predict
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationSettings
from cora.training.trainer import CORATrainer

__all__ = ["COLUMNS", "OneByOne", "export_model", "run", "split_rounds", "write_panoramas"]

COLUMNS = (
    "backend",
    "sequential_rps",
    "cold_rps",
    "repeat_rps",
    "cold_ratio",
    "repeat_ratio",
    "equal_answers",
    "max_new_tokens",
    "panoramas",
    "questions",
    "source_width",
    "metrics_s",
    "pycocoevalcap_s",
    "captions",
    "rounds",
    "device",
    "cores",
    "torch",
)
PANORAMAS = 20
QUESTIONS = 3
SOURCE_WIDTH = 2048
FIRST_SEED = 20_000_000
# Enough for answers of the usual length, whatever they say.
LANGUAGE_STEPS = 80
TRAIN_PANORAMAS = 32


@dataclass(frozen=True, slots=True)
class _Rates:
    """Answers per second of a round, and the share of cold answers that are those given one at a time."""

    sequential: float
    cold: float
    repeat: float
    equal: float


def run(config: Path, *, backend: str = "auto", rounds: int = 3) -> dict[str, Any]:
    """Return the keys of `COLUMNS`; rates are medians of the rounds.

    Args:
        config: Configuration of the sizes; its towers and data are replaced.
        backend: What the run answers with, see `PanoramaGenerator.from_checkpoint`; one at a time is Transformers.
        rounds: Times that everything is measured, each with other panoramas.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export, settings = export_model(ConfigManager.load(config), config, folder)
        rows = write_panoramas(folder / "rows", rounds)
        parts = split_rounds(rows, rounds)
        one_by_one = OneByOne(export, settings)
        generator = PanoramaGenerator.from_checkpoint(export, backend)
        name_of_backend = generator.name
        try:
            warm_up, *measured = parts
            _measure(one_by_one, generator, settings, warm_up, folder / "warm-up")
            found = [
                _measure(one_by_one, generator, settings, part, folder / f"round-{number}")
                for number, part in enumerate(measured)
            ]
        finally:
            generator.close()
        captions = time_captions(rounds=rounds)
        rates = {
            name: statistics.median(getattr(each, name) for each in found) for name in ("sequential", "cold", "repeat")
        }
        row = {
            "backend": name_of_backend,
            **{f"{name}_rps": round(rate, 2) for name, rate in rates.items()},
            **{
                f"{name}_ratio": round(statistics.median(getattr(each, name) / each.sequential for each in found), 2)
                for name in ("cold", "repeat")
            },
            "equal_answers": round(min(each.equal for each in found), 3),
            "max_new_tokens": settings.max_new_tokens,
            "panoramas": PANORAMAS,
            "questions": QUESTIONS,
            "source_width": SOURCE_WIDTH,
            **{name: captions[name] for name in ("metrics_s", "pycocoevalcap_s", "captions")},
            "rounds": rounds,
            **environment(),
        }
        return {column: row[column] for column in COLUMNS}


class OneByOne:
    """Answers rows as a short script does, with the model and processor of an export."""

    def __init__(self, export: Path, settings: GenerationSettings) -> None:
        import torch

        from cora.inference.transformers_backend import resolve_device
        from cora.model.vlm import PanoramaVLM
        from cora.processors.processor import PanoramaProcessor

        device = resolve_device("auto")
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self._model = PanoramaVLM.from_pretrained(export, dtype=dtype).train(False)
        torch.nn.Module.to(self._model, device)
        self._processor = PanoramaProcessor.from_pretrained(str(export))
        self._max_new_tokens = settings.max_new_tokens

    def answer(self, rows: Sequence[Row]) -> list[str]:
        """Return the answers."""
        return [self.answer_one(row) for row in rows]

    def answer_one(self, row: Row, streamer: Any = None) -> str:
        """Return the answer to one row; a streamer of Transformers is given its tokens."""
        prompt = self._processor.text_formatter.prompt(row.query)
        inputs = self._processor(images=[row.image], text=[prompt], return_tensors="pt").to(self._model.device)
        sequences = self._model.generate(
            **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, streamer=streamer
        )
        answer = sequences[0, inputs["input_ids"].shape[1] :]
        text: str = self._processor.tokenizer.decode(
            answer, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def export_model(config: CORAConfig, path: Path, folder: Path) -> tuple[Path, GenerationSettings]:
    """Train a model of the configuration's sizes for a moment; return its export and its generation settings."""
    settings = prepare(path, folder, samples=TRAIN_PANORAMAS, rounds=1, language_steps=LANGUAGE_STEPS)
    training = settings.training.model_copy(update={"stages": ["finetune"]})
    trainer = CORATrainer(settings.model_copy(update={"training": training}), experiment="bench", show_progress=False)
    return trainer.train().export_dir, GenerationSettings(max_new_tokens=config.generation.max_new_tokens)


def write_panoramas(folder: Path, rounds: int) -> list[Row]:
    """Render the panoramas of all rounds, and as many as a round has to warm up with; return their rows."""
    scenes = PANORAMAS * (rounds + 1)
    split = write_split(
        folder,
        "test",
        num_scenes=scenes,
        first_seed=FIRST_SEED,
        height=SOURCE_WIDTH // 2,
        width=SOURCE_WIDTH,
        subsampling="4:2:0",
    )
    return read_rows(split.csv)


def split_rounds(rows: Sequence[Row], rounds: int) -> list[tuple[list[Row], list[Row]]]:
    """Return (questions, other questions) of the panoramas to warm up with, then of each round's.

    Only a whole round warms up: kernels are made for every size of a batch, and a single panorama makes no batch.
    """
    by_image: dict[Path, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    images = list(by_image.values())
    groups = [images[PANORAMAS * number :][:PANORAMAS] for number in range(rounds + 1)]
    return [
        (
            [row for of_image in group for row in of_image[:QUESTIONS]],
            [row for of_image in group for row in of_image[QUESTIONS : 2 * QUESTIONS]],
        )
        for group in groups
    ]


def _measure(
    one_by_one: OneByOne,
    generator: PanoramaGenerator,
    settings: GenerationSettings,
    part: tuple[list[Row], list[Row]],
    folder: Path,
) -> _Rates:
    questions, others = part
    expected: list[str] = []
    sequential = _seconds(lambda: expected.extend(one_by_one.answer(questions)))

    def answer(rows: list[Row], name: str) -> float:
        return _seconds(
            lambda: predict(generator, rows, settings, folder / name, chunk_size=generator.chunk_size, progress=False)
        )

    cold, repeat = answer(questions, "cold"), answer(others, "repeat")
    answers = read_predictions(folder / "cold" / PREDICTIONS_NAME).answers
    equal = sum((mine or "").strip() == theirs.strip() for mine, theirs in zip(answers, expected, strict=True))
    count = len(questions)
    return _Rates(count / sequential, count / cold, len(others) / repeat, equal / count)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
