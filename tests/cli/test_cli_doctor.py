"""What `cora doctor` finds, and when it says that something is broken."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from click.testing import CliRunner

from cora.cli import environment
from cora.cli.doctor import main


@pytest.fixture(scope="module")
def found():
    result = CliRunner().invoke(main, ["--json"])
    document = json.loads(result.stdout.splitlines()[-1])
    return result.exit_code, document["ok"], {check["name"]: check for check in document["checks"]}


def test_this_environment_is_healthy(found):
    code, healthy, checks = found
    assert [check for check in checks.values() if check["state"] == "broken"] == []
    assert (code, healthy) == (0, True)
    assert checks["torch"]["detail"] == metadata.version("torch")
    assert checks["requirements"]["detail"] == "all met"


def test_the_table_has_a_line_for_each_check(found):
    result = CliRunner().invoke(main, [])
    assert [line.split()[1] for line in result.stdout.splitlines()] == list(found[2])


def test_a_version_out_of_range_is_broken(monkeypatch):
    versions = {"cora-panorama": "1", "transformers": "4.0.0"}
    monkeypatch.setattr(environment, "_version", lambda package: versions.get(package, "999"))
    monkeypatch.setattr(environment.metadata, "requires", lambda name: ["transformers>=5", "rich", "x; extra == 'x'"])
    check = environment._requirements()
    assert (check.state, check.detail) == ("broken", "transformers>=5 (found 4.0.0)")


def test_a_torchvision_that_does_not_import_is_broken(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(environment, "_version", lambda package: "0.28.0")
    monkeypatch.setattr(environment.importlib, "import_module", fail)
    check = environment._torchvision()
    assert check.state == "broken"
    assert "pip uninstall torchvision" in check.detail


def test_vllm_without_the_plugin_is_broken(monkeypatch):
    monkeypatch.setattr(environment.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(environment, "_version", lambda package: "0.32.0" if package == "vllm" else None)
    assert environment._vllm().state == "broken"
    monkeypatch.setattr(environment, "_version", lambda package: None)
    assert environment._vllm().state == "absent"
