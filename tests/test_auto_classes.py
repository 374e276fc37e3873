"""Whatever is imported first, the Auto classes of transformers know CORA once it has been imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

KNOWN = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
config = CONFIG_MAPPING["cora"]
assert config.__name__ == "PanoramaVLMConfig", config
assert PROCESSOR_MAPPING[config].__name__ == "PanoramaProcessor"
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    assert auto._model_mapping[config].__name__ == "PanoramaVLM", auto
import sys
assert "torchvision" not in sys.modules
"""

ORDERS = {
    "cora, then transformers": """
import cora, sys
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "import cora is not light"
""",
    "half of transformers, then cora": """
from transformers import AutoConfig
import cora
""",
    "all of transformers, then cora": """
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
import cora
""",
    "processor first": "import cora.processors.processor",
    "model first": "import cora.model.vlm",
}


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All at once: each of them mostly waits for imports."""
    started = {
        order: subprocess.Popen([sys.executable, "-c", first + KNOWN], stderr=subprocess.PIPE, text=True)
        for order, first in ORDERS.items()
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_cora(order: str, processes: dict[str, subprocess.Popen[str]]) -> None:
    _, errors = processes[order].communicate(timeout=120)
    assert processes[order].returncode == 0, errors
