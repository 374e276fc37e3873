"""The recipes of CONTRIBUTING.md are code that runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from cora.data.table import Row
from cora.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(title: str, prelude: str = "") -> dict[str, object]:
    """Run the Python block below a heading, after `prelude`, and return its names."""
    section = TEXT.split(f"### {title}\n")[1].split("\n### ")[0]
    block = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None, f"{title} has no Python block"
    names: dict[str, object] = {"__name__": "recipe"}
    exec(compile(prelude + textwrap.dedent(block[1]), title, "exec"), names)
    return names


def test_resampler_recipe():
    import torch

    resampler = recipe("Add a resampler")["MeanResampler"](12, 5, bias=False)
    tokens = torch.randn(3, 8, 12)
    assert torch.allclose(resampler(tokens, (2, 4))[:, 0], tokens.mean(1) @ resampler.project.weight.T, atol=1e-6)
    assert resampler.num_tokens((2, 4)) == 1
    assert not resampler.is_grid
    assert resampler.output_grid((2, 4)) is None


def test_crop_strategy_recipe():
    from cora.processors.strategies import CropOptions

    (view,) = recipe("Add a crop strategy")["front"](CropOptions(fov_deg=80.0))
    assert (view.yaw_deg, view.hfov_deg) == (0.0, 80.0)


def test_protocol_recipe():
    row = Row("0", Path("a.jpg"), "How high?", ("20°",), None, None, None, 2)
    protocol = recipe("Add a protocol")["Latitude"]()
    verdict = protocol.judge(row, "It is at 31° or so")
    assert (verdict.is_right, verdict.value, verdict.measure, verdict.rung) == (False, 31.0, 11.0, "pattern")
    assert protocol.judge(row, "11°").is_right


def test_loss_recipe():
    import torch

    from cora.geometry.layouts import yaw_ring

    ring = yaw_ring(90, 0.5)
    loss = recipe("Add a loss on overlapping views")["AgreementLoss"](ring, (4, 4))
    assert float(loss(torch.ones(1, len(ring), 16, 3))) == pytest.approx(0, abs=1e-6)
    signs = torch.tensor([1.0, -1.0]).repeat(4).view(1, 8, 1, 1)
    assert float(loss(signs.expand(1, 8, 16, 3))) == pytest.approx(2, abs=1e-6)
    with pytest.raises(ConfigError, match="AgreementLoss needs views that overlap physically"):
        recipe("Add a loss on overlapping views")["AgreementLoss"](yaw_ring(90, 0), (4, 4))


def test_metric_recipe():
    length_ratio = recipe("Add a metric", prelude="from __future__ import annotations\n")["_length_ratio"]
    scores = length_ratio({0: ["a b"], 1: ["a"]}, {0: ["a"], 1: ["a"]})
    assert scores == {"length_ratio": (0.75, [0.5, 1.0])}


def test_command_recipe(tmp_path):
    (tmp_path / "run.yaml").write_text("experiment: {name: hi}", encoding="utf-8")
    command = recipe("Add a command")["main"]
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "run.yaml")])
    assert (result.exit_code, result.stdout) == (0, "hi\n")
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "run.yaml"), "--set", "experiment.nam=x"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --set experiment.nam: unknown key (did you mean 'name'?)\n",
    )


@pytest.mark.parametrize("path", re.findall(r"`((?:cora|tests|docs|triton_kernels|bench)/[\w/.]*)`", TEXT))
def test_mentioned_paths_exist(path):
    made_by_the_recipes = {"mean.py", "test_resampler_mean.py", "front.py", "hello.py", "agreement.py", "latitude.py"}
    assert Path(path).name in made_by_the_recipes or (ROOT / path).exists()
