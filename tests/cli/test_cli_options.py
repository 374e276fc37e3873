"""The options of every command, frozen: scripts of users depend on them."""

from __future__ import annotations

import importlib

import click
import pytest

from cora.cli.errors import Group
from cora.cli.main import COMMANDS, main

# To add an option: add it here, in the documentation and in the changelog. To remove or rename one: deprecate it first.
OPTIONS = {
    "ask": {"--backend", "--checkpoint", "--debug", "--help", "--max-tokens", "--model", "--url"},
    "bench captions": {"--debug", "--help", "--json", "--rounds"},
    "bench crop": {"--chart", "--debug", "--help", "--json", "--rounds", "--size", "--threads", "--width"},
    "bench eval": {"--backend", "--config", "--debug", "--help", "--json", "--rounds"},
    "bench preprocess": {"--chart", "--debug", "--help", "--json", "--rounds", "--size", "--threads", "--width"},
    "bench scan": {"--debug", "--help", "--json", "--rounds"},
    "bench resampler": {"--case", "--debug", "--help", "--json", "--rounds"},
    "bench serve": {
        "--chart",
        "--concurrent",
        "--debug",
        "--help",
        "--json",
        "--pid",
        "--rate",
        "--requests",
        "--soak",
        "--url",
        "--within",
    },
    "bench throughput": {"--chart", "--checkpoint", "--config", "--debug", "--help", "--json", "--rounds"},
    "bench train": {"--config", "--debug", "--help", "--json", "--rounds", "--samples"},
    "collect": {"--baseline", "--debug", "--help", "--json", "--metric", "--out", "--resamples", "--seed"},
    "convert": {"--debug", "--help"},
    "crop": {
        "--debug",
        "--fov",
        "--help",
        "--json",
        "--max-patches",
        "--out",
        "--overlap",
        "--size",
        "--strategy",
    },
    "doctor": {"--debug", "--help", "--json"},
    "dry-run": {"--config", "--debug", "--help", "--json", "--set", "--strict"},
    "eval": {
        "--backend",
        "--checkpoint",
        "--config",
        "--csv-input",
        "--debug",
        "--device",
        "--executor",
        "--help",
        "--image-root",
        "--json",
        "--limit",
        "--output-dir",
        "--predict-only",
        "--seed",
        "--set",
        "--shard",
        "--test-csv",
        "--workers",
        "--yaw-shifts",
    },
    "export": {"--debug", "--help", "--json"},
    "judge": {
        "--against",
        "--base-url",
        "--batch",
        "--collect-batch",
        "--config",
        "--debug",
        "--help",
        "--image-root",
        "--json",
        "--limit",
        "--model",
        "--output-dir",
        "--set",
    },
    "metrics download": {"--debug", "--from", "--help", "--to"},
    "quickstart": {
        "--backend",
        "--config",
        "--debug",
        "--help",
        "--runs-dir",
        "--set",
        "--test-scenes",
        "--tower-steps",
        "--train-scenes",
    },
    "report": {"--debug", "--help", "--json", "--max-pictures", "--out", "--viewer-width"},
    "serve": {
        "--accept-flat",
        "--allow-media-dir",
        "--allow-media-domain",
        "--api-key",
        "--checkpoint",
        "--config",
        "--debug",
        "--help",
        "--host",
        "--insecure",
        "--port",
        "--served-model-name",
        "--set",
    },
    "train": {"--config", "--debug", "--help", "--json", "--resume", "--set", "--stage", "--strict"},
}
MOST_OPTIONS = 8
# Two commands in one: answering and scoring, apart or together, on one machine or several. What a server opens is said
# where it is started.
MOST_OPTIONS_OF = {"eval": 14, "serve": 9}
COMMON = {"--config", "--debug", "--help", "--json", "--set", "--strict"}


def leaves(command: click.Command, name: str = "") -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    context = click.Context(command)
    found: dict[str, click.Command] = {}
    for child in command.list_commands(context):
        inner = command.get_command(context, child)
        assert inner is not None
        found |= leaves(inner, f"{name} {child}".strip())
    return found


def options_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {option for parameter in command.get_params(context) for option in parameter.opts if option.startswith("-")}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_frozen(name):
    first = name.split()[0]
    module_name, _, attribute = COMMANDS[first].partition(":")
    command = getattr(importlib.import_module(module_name), attribute)
    assert options_of(leaves(command, first)[name]) == OPTIONS[name]


def test_every_command_is_in_the_table():
    assert set(leaves(main)) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_has_few_options_of_its_own(name):
    assert len(OPTIONS[name] - COMMON) <= MOST_OPTIONS_OF.get(name, MOST_OPTIONS)


def test_every_option_is_explained():
    missing = [
        f"{name} {parameter.opts[0]}"
        for name, command in leaves(main).items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert missing == []


def test_every_command_reports_errors_as_one_line():
    assert isinstance(main, Group)
    for name, command in leaves(main).items():
        assert "--debug" in options_of(command), f"{name} is not a cora.cli.errors.Command"
