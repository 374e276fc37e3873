"""Killed at any moment, out of disk or torn, a run goes on as if nothing had been and never shows half a file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_generator import CHUNK_SIZE, FakeGenerator, write_table

import cora
from cora.data.table import read_rows
from cora.evaluation.runner import EvaluationResult, evaluate

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(cora.__file__).parents[1]), str(HERE)])}
REPORTS = ("predictions.csv", "samples.jsonl", "metrics.json", "metrics.csv")


def run(table: Path, output_dir: Path, **options: Path) -> EvaluationResult:
    generator = FakeGenerator(**options)
    return evaluate(
        generator, read_rows(table), output_dir=output_dir, captions=False, chunk_size=CHUNK_SIZE, progress=False
    )


def scores(output_dir: Path) -> dict[str, object]:
    """Return what a run came to, without where it comes from."""
    report = json.loads((output_dir / "metrics.json").read_text())
    del report["provenance"]
    return report


def rows_of(num_rows: int) -> list[tuple[str, ...]]:
    """Return rows of which one in three is answered rightly."""
    return [
        (f"{n % 50}.jpg", f"q{n // 50}", f"{n % 50} q{n // 50}", f"{n % 50} q{n // 50 if n % 3 else 9}")
        for n in range(num_rows)
    ]


HEADER = "url,query,annotation,answer"


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.abuse(12)
def test_killed_at_random_moments_and_resumed(tmp_path: Path, kills: int) -> None:
    table = write_table(tmp_path, rows_of(200), HEADER)
    journal, asked = tmp_path / "out/predictions.jsonl", tmp_path / "out/asked"
    rng = random.Random(kills)
    targets = sorted(rng.sample(range(0, 190, 8), kills))
    num_asked = num_kept = 0
    for target in targets:
        process = subprocess.Popen(
            [sys.executable, HERE / "fake_generator.py", table, tmp_path / "out", "0.01"], env=ENVIRONMENT
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if journal.is_file() and journal.read_bytes().count(b"\n") >= target:
                break
            time.sleep(0.001)
        # Anywhere in a batch: while it is asked, written, synced.
        time.sleep(rng.uniform(0, 0.012))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        newly_asked = len(asked.read_text().splitlines()) - num_asked if asked.exists() else 0
        newly_kept = (journal.read_bytes().count(b"\n") if journal.exists() else 0) - num_kept
        assert 0 <= newly_asked - newly_kept <= CHUNK_SIZE, "a kill costs more than one batch"
        num_asked, num_kept = num_asked + newly_asked, num_kept + newly_kept
    result = run(table, tmp_path / "out", asked=asked)
    assert result.num_reused == num_kept >= targets[-1]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 200
    assert len(asked.read_text().splitlines()) == num_asked + 200 - num_kept
    run(table, tmp_path / "whole")
    for name in ("predictions.csv", "samples.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert scores(tmp_path / "out") == scores(tmp_path / "whole")
    assert 0.5 < (result.accuracy or 0) < 0.8


# Runs the table again and again, each time in a process of its own that dies at one more call of fsync or rename:
# `PROGRAM TABLE FOLDER`. Every folder holds an earlier run over a part of the table.
DYING = """
import os, shutil, signal, sys
from pathlib import Path
from fake_generator import CHUNK_SIZE, FakeGenerator
from cora.data.table import read_rows
from cora.evaluation.runner import evaluate

table, folder = map(Path, sys.argv[1:])

def evaluate_in(name, rows):
    options = {"captions": False, "progress": False, "chunk_size": CHUNK_SIZE}
    evaluate(FakeGenerator(), rows, output_dir=folder / name, **options)

def die_at(number):
    calls = iter(range(1, 10**6))
    def wrapped(real):
        def call(*arguments):
            for do in (lambda: None, lambda: real(*arguments)):
                do()
                if next(calls) == number:  # odd numbers before the call, even ones after it
                    os.kill(os.getpid(), signal.SIGKILL)
        return call
    os.fsync, os.replace = wrapped(os.fsync), wrapped(os.replace)

rows = read_rows(table)
evaluate_in("old", rows[:8])
for number in range(1, 1000):
    shutil.copytree(folder / "old", folder / str(number))
    if (child := os.fork()) == 0:
        die_at(number)
        evaluate_in(str(number), rows)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number - 1)
        break
"""


@pytest.mark.abuse(13)
def test_killed_at_every_sync_and_rename(tmp_path: Path) -> None:
    """Each file of the run is then the old one or the new one, and the next run makes all of them new."""
    table = write_table(tmp_path, rows_of(16), HEADER)
    folder = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "-c", DYING, table, folder], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    num_points = int(done.stdout)
    # Two batches, a table and three reports are synced, and all but the batches renamed; before and after each.
    assert num_points == 2 * (2 + 2 * len(REPORTS))
    run(table, tmp_path / "whole")
    new_files = dict.fromkeys(REPORTS, 0)
    for number in range(1, num_points + 1):
        out = folder / str(number)
        for name in REPORTS:
            old, new, found = (path / name for path in (folder / "old", tmp_path / "whole", out))
            is_old = found.read_bytes() == old.read_bytes()
            new_files[name] += not is_old
            if name == "metrics.json":
                assert is_old or scores(out) == scores(tmp_path / "whole")
            elif name == "metrics.csv":  # which names the folder
                assert is_old or found.read_text().replace(f"\n{number},", "\nwhole,") == new.read_text()
            else:
                assert is_old or found.read_bytes() == new.read_bytes()
        result = run(table, out)
        # What was written but not yet synced when the process died, the system still has.
        assert result.num_reused == {1: 8, 2: 8}.get(number, 0) or result.num_reused in (12, 16)
        assert scores(out) == scores(tmp_path / "whole")
        assert not list(out.glob(".*.part"))
        assert len((out / "predictions.jsonl").read_text().splitlines()) == 16
    # The batches have two points each, and a file is the new one from the last of its four on: that after the rename.
    assert list(new_files.values()) == [num_points - 2 * 2 - 4 * index - 3 for index in range(len(REPORTS))]


# Fills a small disk: `PROGRAM TABLE DISK`.
FULL = """
import subprocess, sys
from pathlib import Path
import torch
from fake_generator import FakeGenerator
from cora.data.feature_cache import FeatureCache
from cora.data.table import read_rows
from cora.errors import DataError
from cora.evaluation.runner import evaluate
from cora.files import write_file
from cora.inference.protocol import GenerationResult
from cora.training.checkpoints import AtomicCheckpointIO, read_checkpoint

table, disk = map(Path, sys.argv[1:])
rows = read_rows(table)

class Talkative(FakeGenerator):
    def answer(self, request):
        return GenerationResult(request.query * 1000, (1,), "stop")

def resized(size):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)

def refused(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the disk is not full")

def run():
    return evaluate(Talkative(), rows, output_dir=disk / "out", captions=False, chunk_size=4, progress=False)

# The journal: whole lines only, and they are used again.
print(refused(run))
journal = (disk / "out/predictions.jsonl").read_bytes()
assert journal.endswith(b"\\n") and 0 < journal.count(b"\\n") < 200
resized("4m")
assert run().num_reused == journal.count(b"\\n")

# A report: the old one stays.
before = (disk / "out/predictions.csv").read_bytes()
print(refused(lambda: write_file(disk / "out/predictions.csv", "x" * 2**23)))
assert (disk / "out/predictions.csv").read_bytes() == before
assert not list((disk / "out").glob(".*.part"))

# A checkpoint: the old one stays and loads.
save = AtomicCheckpointIO().save_checkpoint
save({"epoch": 1}, disk / "last.ckpt")
print(refused(lambda: save({"epoch": 2, "state_dict": {"w": torch.zeros(2**21)}}, disk / "last.ckpt")))
assert read_checkpoint(disk / "last.ckpt") == {"epoch": 1}
assert not (disk / "last.ckpt.part").exists()

# The cache of features: training goes on without it, and what it had is still there.
cache = FeatureCache(disk / "cache", "model", max_bytes=2**30)
features = torch.randn(1, 4, 256, 256)
names = [str(number) for number in range(16)]
for name in names:
    cache.store([name], features)
assert not cache.is_writable
kept = [name for name in names if (found := cache.read(name).features) is not None and found.shape == (4, 256, 256)]
assert 0 < len(kept) < 16, kept
assert not list(cache.folder.glob(".*.part"))
"""


def _mounts_a_disk() -> bool:
    program = shutil.which("unshare")
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return program is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _mounts_a_disk(), reason="needs unshare and the right to mount in a namespace of its own")
@pytest.mark.abuse(16)
def test_on_a_full_disk_everything_earlier_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    table = write_table(tmp_path, rows_of(200), HEADER)
    script = 'mount -t tmpfs -o size=128k none "$1" && shift && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, "-c", FULL, table, disk]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    journal, report, checkpoint = done.stdout.splitlines()
    assert journal.startswith(f"DataError: {disk}/out/predictions.jsonl cannot be written: No space left on device; ")
    assert journal.endswith("answers are kept and will be used again")
    assert report == f"DataError: {disk}/out/predictions.csv cannot be written: No space left on device"
    assert checkpoint == f"CheckpointError: {disk}/last.ckpt cannot be written: No space left on device"
