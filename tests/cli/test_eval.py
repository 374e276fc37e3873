"""cora-eval: what it prints, writes and returns, for good and bad input; the model is replaced by a fake."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cora.cli.eval import main
from cora.evaluation import java as java_module
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed

pytest.importorskip("transformers")


class FakeGenerator:
    """Answers "red" to everything about a picture that exists."""

    name, model_digest, processor_digest, chunk_size = "fake", "m", "p", 2

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False
        self.settings: GenerationSettings | None = None
        self.interrupt_after: int | None = None
        self.opened_with: tuple[Any, ...] = ()

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        if self.interrupt_after is not None and self.asked >= self.interrupt_after:
            raise KeyboardInterrupt
        self.asked += len(requests)
        self.settings = settings
        return [
            GenerationResult("red", (1,), "stop")
            if Path(str(request.image)).is_file()
            else failed(f"{request.image}: gone")
            for request in requests
        ]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    generator = FakeGenerator()

    def from_checkpoint(directory: Path, backend: str, *, device: str) -> FakeGenerator:
        generator.opened_with = (directory, backend, device)
        return generator

    monkeypatch.setattr(PanoramaGenerator, "from_checkpoint", from_checkpoint)
    return generator


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "test.csv").write_text(
        "url,query,annotation,answer,type\na.jpg,q,red,red,colour\nb.jpg,q,blue,blue,colour\nc.jpg,q,a red sea,,\n"
    )


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="cora-eval")


def error_lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_answers_scores_and_says_where_the_files_are(fake: FakeGenerator) -> None:
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert fake.opened_with == (Path("model"), "auto", "cpu")
    assert fake.closed
    assert "exact_match   0.5000" in result.stdout
    assert "colour      0.5000  1 of 2" in result.stdout
    assert "3 of 3 questions answered\nfiles: out" in result.stdout
    assert {path.name for path in Path("out").iterdir()} == {
        "predictions.jsonl",
        "predictions.lock",
        "predictions.csv",
        "samples.jsonl",
        "report.html",
        "metrics.json",
        "metrics.csv",
    }


def test_the_last_line_is_one_json_document(fake: FakeGenerator) -> None:
    result = invoke("--checkpoint", "runs/seven/export", "--test-csv", "test.csv", "--limit", "2", "--json")
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["output_dir"] == "outputs/seven-test"
    assert document["counts"]["questions"] == 2
    assert document["metrics"]["exact_match"] == 0.5
    assert document["metrics"]["spice"] is None
    assert document["exit_code"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "2"), "--workers goes with --executor ray"),
        (("--executor", "ray", "--backend", "openai"), "--executor ray runs engines"),
    ],
)
def test_options_of_the_executor_ray(options: tuple[str, ...], words: str) -> None:
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv", *options)
    assert result.exit_code == 2
    assert words in error_lines(result)[0]


def test_the_executor_ray_is_given_what_was_asked_for(fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(checkpoint: Path, backend: str, *, device: str, num_workers: int | None) -> FakeGenerator:
        fake.opened_with = (checkpoint, backend, device, num_workers)
        return fake

    monkeypatch.setattr("cora.inference.ray_executor.RayGenerator", opened)
    options = ("--output-dir", "out", "--executor", "ray", "--workers", "3", "--device", "cpu")
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv", *options)
    assert result.exit_code == 0, result.output
    assert fake.opened_with == (Path("model"), "auto", "cpu", 3)
    assert fake.closed


def test_protocols_are_printed(fake: FakeGenerator) -> None:
    Path("test.csv").write_text("url,query,answer,choices,protocol\na.jpg,q,red,red|blue,multiple_choice\n")
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out", "--json")
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["protocols"]["multiple_choice"]["accuracy"] == 1.0
    result = invoke("--csv-input", "out/predictions.csv")
    assert "multiple_choice 1.0000  1 of 1, 0 could not be read" in result.stdout
    Path("test.csv").write_text("url,query,answer,protocol\na.jpg,q,red,multiple_choice\n")
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv")
    assert result.exit_code == 2
    assert "row 0 (line 2), protocol multiple_choice: multiple choice needs 2 to 26 choices" in result.stderr


def test_turned_panoramas_and_shuffled_choices(fake: FakeGenerator) -> None:
    Image.new("RGB", (8, 4)).save("d.png")
    Path("test.csv").write_text(
        "url,query,answer,choices,protocol,yaw_equivariant\nd.png,q,A,red|blue,multiple_choice,yes\nd.png,p,left,,bearing,\n"
    )
    arguments = ("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out", "--yaw-shifts", "0,180")
    result = invoke(*arguments, "--set", "evaluation.choice_seed=3", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    assert fake.asked == 4
    assert document["yaw_consistency"]["accuracy_by_shift"] == {"0": 0.5, "180": 0.5}
    assert document["yaw_consistency"]["agreement"] == 0.5
    assert document["regions"]["elsewhere"] == {"accuracy": 0.0, "items": 1, "correct": 0}
    assert json.loads(Path("out/metrics.json").read_text())["provenance"]["choice_seed"] == 3
    stdout = invoke(*arguments).stdout
    assert "mean accuracy   0.5000  over turned panoramas, 2 questions (0°: 0.5000, 180°: 0.5000)" in stdout
    assert "agreement       0.5000  of pairs of shifts" in stdout
    Path("test.csv").write_text("url,query,answer\nd.png,q,red\n")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "row 0 (line 2): column 'yaw_equivariant' is missing" in result.stderr


def test_bad_images_are_counted_and_the_rest_is_kept(fake: FakeGenerator) -> None:
    Path("b.jpg").unlink()
    arguments = ("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out")
    result = invoke(*arguments)
    assert result.exit_code == 3
    assert error_lines(result) == ["error: 1 of 3 questions have no answer; the first is row 1 (line 3): b.jpg: gone"]
    with Path("out/predictions.csv").open(newline="") as stream:
        assert [row["prediction"] for row in csv.DictReader(stream)] == ["red", "", "red"]
    Path("b.jpg").write_bytes(b"b.jpg")
    result = invoke(*arguments)
    assert (result.exit_code, fake.asked) == (0, 4)
    assert "2 of them by an earlier run" in result.stdout


def test_ctrl_c_keeps_what_was_answered(fake: FakeGenerator) -> None:
    fake.interrupt_after = 2
    arguments = ("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out")
    result = invoke(*arguments)
    assert result.exit_code == 130
    assert error_lines(result) == ["error: interrupted"]
    assert fake.closed
    assert len(Path("out/predictions.jsonl").read_text().splitlines()) == 2
    fake.interrupt_after = None
    assert "2 of them by an earlier run" in invoke(*arguments).stdout


def test_scoring_a_file_needs_no_model(fake: FakeGenerator) -> None:
    invoke("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out")
    asked = fake.asked
    result = invoke("--csv-input", "out/predictions.csv", "--output-dir", "again", "--json")
    assert (result.exit_code, fake.asked) == (0, asked)
    first, again = (json.loads(Path(name, "metrics.json").read_text()) for name in ("out", "again"))
    assert first["metrics"] == again["metrics"]
    assert first["exact_match_by_type"] == again["exact_match_by_type"]
    Path("empty.csv").write_text("prediction,reference\nred,red\n,blue\n")
    result = invoke("--csv-input", "empty.csv")
    assert result.exit_code == 3
    assert error_lines(result)[0].endswith("the first is row 1 (line 3): the prediction is empty")


def test_predicting_and_scoring_apart_give_what_they_give_together(fake: FakeGenerator) -> None:
    common = ("--checkpoint", "model", "--test-csv", "test.csv", "--json")
    result = invoke(*common, "--output-dir", "apart", "--predict-only")
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "exit_code": 0,
        "output_dir": "apart",
        "counts": {"questions": 3, "answered": 3, "unanswered": 0, "reused": 0},
    }
    assert not Path("apart/metrics.json").exists()
    asked = fake.asked
    assert invoke("--csv-input", "apart/predictions.csv", "--output-dir", "apart").exit_code == 0
    assert fake.asked == asked
    invoke(*common, "--output-dir", "together")
    apart, together = (json.loads(Path(name, "metrics.json").read_text()) for name in ("apart", "together"))
    assert apart["metrics"] == together["metrics"]
    Path("b.jpg").unlink()
    result = invoke(*common, "--output-dir", "failed", "--predict-only")
    assert result.exit_code == 3
    assert error_lines(result) == ["error: 1 of 3 questions have no answer; the first is row 1 (line 3): b.jpg: gone"]


def test_shards_are_parts_that_are_scored_together(fake: FakeGenerator) -> None:
    with Path("test.csv").open("a") as stream:
        stream.write("a.jpg,p,green,green,colour\n")
    common = ("--checkpoint", "model", "--test-csv", "test.csv", "--json")
    parts = []
    for shard, samples in (("1/2", ["0", "2", "3"]), ("2/2", ["1"])):
        document = json.loads(invoke(*common, "--shard", shard, "--predict-only").stdout.splitlines()[-1])
        assert document["output_dir"] == f"outputs/model-test-{shard.replace('/', 'of')}"
        parts += ["--csv-input", f"{document['output_dir']}/predictions.csv"]
        with Path(parts[-1]).open(newline="") as stream:
            assert [row["sample_id"] for row in csv.DictReader(stream)] == samples
    shards = json.loads(invoke(*parts, "--output-dir", "shards", "--json").stdout.splitlines()[-1])
    whole = json.loads(invoke(*common, "--output-dir", "whole").stdout.splitlines()[-1])
    assert shards["metrics"]["exact_match"] == pytest.approx(1 / 3)
    assert shards["counts"] == whole["counts"]
    assert shards["metrics"] == {
        name: value if value is None else pytest.approx(value) for name, value in whole["metrics"].items()
    }
    assert len(json.loads(Path("shards/metrics.json").read_text())["provenance"]["predictions_sha256"]) == 2


def test_the_seed_reaches_answers_and_intervals(fake: FakeGenerator) -> None:
    common = ("--checkpoint", "model", "--test-csv", "test.csv", "--json", "--output-dir", "out")
    first = json.loads(invoke(*common, "--seed", "5").stdout.splitlines()[-1])
    assert fake.settings == GenerationSettings(seed=5)
    asked = fake.asked
    again = json.loads(invoke(*common, "--seed", "5").stdout.splitlines()[-1])
    assert first["intervals"] == again["intervals"]
    assert first["intervals"]["exact_match"] == [0.0, 1.0]
    assert invoke(*common, "--seed", "6").exit_code == 0
    assert fake.asked == asked, "a greedy answer does not depend on the seed"
    invoke(*common, "--seed", "6", "--set", "generation.temperature=0.5")
    assert fake.asked == asked + 3


@pytest.mark.abuse(21)
def test_without_java_the_scores_are_null_and_the_exit_code_says_so(
    fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java_module, "_candidates", lambda option: iter(()))
    result = invoke("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out")
    assert result.exit_code == 4
    assert "caption metrics will be null: no Java found" in result.stderr
    assert (
        "meteor, rouge_l, cider could not be computed: no Java found; pip install 'cora-panorama[java]'"
        in result.stderr
    )
    report = json.loads(Path("out/metrics.json").read_text())
    assert report["metrics"]["cider"]["value"] is None
    assert report["metrics"]["exact_match"]["value"] == 0.5


def test_a_file_is_scored_without_java_where_that_is_asked_for(
    fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out", "--predict-only")
    monkeypatch.setattr(java_module, "_candidates", lambda option: iter(()))
    settings = ("--set", "evaluation.tokenizer=regex", "--set", "evaluation.caption_metrics=[bleu_1,cider]")
    result = invoke("--csv-input", "out/predictions.csv", "--output-dir", "scores", *settings)
    assert result.exit_code == 0
    report = json.loads(Path("scores/metrics.json").read_text())
    assert report["metrics"]["cider"]["status"] == "ok"
    assert report["provenance"]["scoring"] == {
        "tokenizer": report["metrics"]["bleu_1"]["why"].removeprefix("tokens by ")
    }


def test_settings_come_from_overrides_and_the_run(fake: FakeGenerator) -> None:
    arguments = ("--checkpoint", "run/export", "--test-csv", "test.csv", "--output-dir", "out")
    assert invoke(*arguments, "--set", "generation.max_new_tokens=7").exit_code == 0
    assert fake.settings == GenerationSettings(max_new_tokens=7)
    Path("own.yaml").write_text("generation: {max_new_tokens: 9, repetition_penalty: 1.5}\n")
    assert invoke(*arguments, "--config", "own.yaml", "--set", "generation.max_new_tokens=8").exit_code == 0
    assert fake.settings == GenerationSettings(max_new_tokens=8, repetition_penalty=1.5)
    Path("run/export").mkdir(parents=True)
    Path("run/config.yaml").write_text("generation: {max_new_tokens: 5}\n")
    assert invoke(*arguments).exit_code == 0
    assert fake.settings == GenerationSettings(max_new_tokens=5)


BAD_INPUT = {
    "nothing": ((), r"give --checkpoint and --test-csv, or --csv-input"),
    "no table": (("--checkpoint", "model"), r"give --checkpoint and --test-csv"),
    "both": (
        ("--csv-input", "p.csv", "--checkpoint", "model"),
        r"--csv-input goes with --output-dir, --seed, --config and --set",
    ),
    "limit with file": (("--csv-input", "p.csv", "--limit", "2"), r"not with --limit"),
    "limit": (("--limit", "0"), r"--limit"),
    "shard 0": (("--shard", "0/2"), r"'0/2' is not I/N with I from 1 to N"),
    "shard 3 of 2": (("--shard", "3/2"), r"'3/2' is not I/N"),
    "shard": (("--shard", "first"), r"'first' is not I/N"),
    "predict file": (("--csv-input", "p.csv", "--predict-only"), r"not with --predict-only"),
    "shifts with file": (("--csv-input", "p.csv", "--yaw-shifts", "0,90"), r"not with --yaw-shifts"),
    "shifts": (("--checkpoint", "m", "--test-csv", "test.csv", "--yaw-shifts", "90"), r"yaw shifts are at least two"),
    "missing table": (("--checkpoint", "model", "--test-csv", "none.csv"), r"none\.csv: no such file"),
    "missing predictions": (("--csv-input", "none.csv"), r"none\.csv: no such file"),
    "not predictions": (("--csv-input", "test.csv"), r"test\.csv: no prediction column"),
    "no checkpoint": (("--checkpoint", "none", "--test-csv", "test.csv"), r"checkpoint none does not exist"),
    "unknown option": (("--chekpoint", "x"), r"--checkpoint"),
    "unknown key": (
        ("--checkpoint", "m", "--test-csv", "test.csv", "--set", "generation.max_tokens=1"),
        r"generation\.max_tokens: unknown key.*max_new_tokens",
    ),
    "key without effect": (
        ("--checkpoint", "m", "--test-csv", "test.csv", "--set", "training.seed=1"),
        r"only keys of the sections generation and evaluation",
    ),
    "bad value": (
        ("--checkpoint", "m", "--test-csv", "test.csv", "--set", "generation.top_p=2"),
        r"generation\.top_p",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    (line,) = error_lines(result)
    assert "Traceback" not in result.output
    assert re.search(message, line)


def test_debug_shows_the_traceback() -> None:
    result = invoke("--checkpoint", "none", "--test-csv", "test.csv", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_options_are_the_ones_we_mean_to_have() -> None:
    assert sorted(option.name or "" for option in main.params) == sorted(
        [
            "checkpoint",
            "test_csv",
            "csv_input",
            "backend",
            "device",
            "output_dir",
            "limit",
            "shard",
            "predict_only",
            "seed",
            "image_root",
            "yaw_shifts",
            "executor",
            "workers",
            "config",
            "overrides",
            "as_json",
            "debug",
        ]
    )
