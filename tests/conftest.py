"""What every test relies on: an offline, quiet, reproducible process, and the skipping of tests that need hardware."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before anything imports these libraries, and inherited by the processes that tests start.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The engine in this process: it starts in seconds, and a debugger reaches it.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Kept between runs: vLLM inspects a model class in a subprocess once and remembers.
    "VLLM_CACHE_ROOT": str(ROOT / ".cache" / "vllm"),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

# The same examples every time; `pytest --hypothesis-profile=search` draws new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.register_profile("search", derandomize=False, print_blob=True)
hypothesis.settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the machine cannot run; pytest counts and reports the skips."""
    needing_gpu = [item for item in items if "gpu" in item.keywords]
    if needing_gpu and not _has_cuda():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _quick_meteor() -> Iterator[Any]:
    """Put matching words in the place of METEOR's program, which takes seconds at each start."""
    from cora.evaluation import metrics

    def matching_words(corpus: Any, java: object, limit: object) -> Any:
        import numpy as np

        shares = []
        for answer, references in corpus:
            words = set(answer)
            shares.append(max(len(words & set(each)) / max(1, len(words)) for each in references))
        sums = np.array([(share, 1.0, share, 1.0, 0.0, 1.0) for share in shares])
        return sum(shares) / len(shares), shares, sums

    real = metrics._PROGRAMS["meteor"]
    metrics._PROGRAMS["meteor"] = matching_words
    yield real
    metrics._PROGRAMS["meteor"] = real


@pytest.fixture(autouse=True)
def _real_meteor(request: pytest.FixtureRequest, _quick_meteor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give METEOR's program back to tests that ask for it."""
    if "real_meteor" in request.keywords:
        from cora.evaluation import metrics

        monkeypatch.setitem(metrics._PROGRAMS, "meteor", _quick_meteor)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def server_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that servers serve."""
    sys.path.insert(0, str(ROOT / "tests"))
    from served import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("served") / "export")


@pytest.fixture(scope="session")
def server(server_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one `served.Server` of all tests; when they are over, it answers what is under way before it stops."""
    from served import SERVER_OPTIONS, serving, stop_while_answering

    with serving(server_checkpoint, tmp_path_factory.mktemp("server"), *SERVER_OPTIONS) as running:
        yield running
        stop_while_answering(running)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium driven by playwright: CORA_CHROMIUM, one on the path, or playwright's own; without one, a skip.

    One per module: while it runs, nothing else in this thread can run an event loop.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = os.environ.get("CORA_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    with playwright.sync_playwright() as driver:
        try:
            # The sandbox does not start for root, as in containers; the pages are our own.
            browser = driver.chromium.launch(
                executable_path=installed, args=[*software, *quiet], chromium_sandbox=os.getuid() != 0
            )
        except playwright.Error as error:
            if installed is not None:
                raise
            pytest.skip(f"needs a Chromium (make browser): {str(error).splitlines()[0]}")
        yield browser
        browser.close()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
