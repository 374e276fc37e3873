"""Two workers of a local Ray cluster give what one engine gives, and lose nothing on the way."""

from __future__ import annotations

import gc
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from cora.data.table import Row, read_rows
from cora.errors import BackendUnavailable
from cora.evaluation.runner import predict
from cora.inference import ray_executor
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationSettings
from cora.inference.ray_executor import RayGenerator

SETTINGS = GenerationSettings(max_new_tokens=24)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def test_without_ray_the_error_says_what_to_install(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'cora-panorama\[ray\]'"):
        RayGenerator(tiny_export)


@pytest.fixture(scope="module")
def generator(tiny_export: Path) -> Iterator[RayGenerator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ray_executor, "_QUESTIONS_PER_PARCEL", 3)
        # Ray leaves the processes of its cluster to the collector; its data part warns of its own options.
        with warnings.catch_warnings(action="ignore"):
            opened = RayGenerator(tiny_export, "transformers", device="cpu", num_workers=2)
            import ray.data

            # Otherwise a worker that is there first could answer all of them.
            ray.data.DataContext.get_current().wait_for_min_actors_s = 120
        yield opened
        with warnings.catch_warnings(action="ignore"):
            opened.close()
            gc.collect()
    assert not ray.is_initialized()


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Twelve panoramas with three questions each, and one that is not there."""
    lines = ["url,query,annotation", "none.png,sky,red"]
    for seed in range(12):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 32)).save(tmp_path / f"{seed}.png")
        lines += [f"{seed}.png,{query},red" for query in ("What is ahead?", "sky", "Describe the scene.")]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    return read_rows(tmp_path / "test.csv")


class _Disturbed:
    """A generator to whose run something happens after its first answers."""

    def __init__(self, inner: RayGenerator, happens: Callable[[], None]) -> None:
        self.name, self.model_digest, self.processor_digest = inner.name, inner.model_digest, inner.processor_digest
        self._inner = inner
        self._happens = happens

    def stream(self, requests: Any, settings: GenerationSettings) -> Iterator[Any]:
        for number, finished in enumerate(self._inner.stream(requests, settings)):
            yield finished
            if number == 0:
                self._happens()


def interrupt() -> None:
    raise KeyboardInterrupt


def kill_a_worker() -> None:
    workers = [one for one in psutil.Process().children(recursive=True) if "MapWorker" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[0].kill()


@pytest.mark.slow
@needs_ray
@pytest.mark.abuse(19)
def test_two_workers_answer_as_one_engine_whatever_happens_to_them(
    generator: RayGenerator, tiny_export: Path, rows: list[Row], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = PanoramaGenerator.from_checkpoint(tiny_export, "transformers", device="cpu")
    assert (plain.name, plain.model_digest, plain.processor_digest, plain.views) == (
        generator.name,
        generator.model_digest,
        generator.processor_digest,
        generator.views,
    )
    alone = predict(plain, rows, SETTINGS, tmp_path / "plain", progress=False)
    folder = tmp_path / "ray"
    with pytest.raises(KeyboardInterrupt):
        predict(_Disturbed(generator, interrupt), rows, SETTINGS, folder, progress=False)  # type: ignore[arg-type]
    num_kept = len((folder / "predictions.jsonl").read_text().splitlines())
    assert 0 < num_kept < len(rows)
    caplog.set_level(logging.INFO)
    result = predict(
        _Disturbed(generator, kill_a_worker),  # type: ignore[arg-type]
        rows,
        SETTINGS,
        folder,
        progress=False,
    )
    assert (folder / "predictions.csv").read_text() == (tmp_path / "plain/predictions.csv").read_text()
    # What failed is asked again; the missing panorama may have been among the first.
    assert num_kept - 1 <= result.num_reused <= num_kept
    assert [failure.error for failure in result.failures] == [failure.error for failure in alone.failures]
    (line,) = [record.getMessage() for record in caplog.records if "questions by worker" in record.getMessage()]
    assert len(re.findall(r":\d+ [1-9]", line)) >= 2, line
    # And a plain run goes on with the journal of this one.
    assert predict(plain, rows, SETTINGS, folder, progress=False).num_reused == len(rows) - 1


@needs_ray
def test_more_workers_than_the_cluster_has_room_for(generator: RayGenerator, tiny_export: Path) -> None:
    with pytest.raises(BackendUnavailable, match="5000 workers do not fit: the cluster has"):
        RayGenerator(tiny_export, "transformers", device="cpu", num_workers=5000)
    with pytest.raises(BackendUnavailable, match="the cluster has no GPU"):
        RayGenerator(tiny_export, "transformers", device="cuda", num_workers=1)
