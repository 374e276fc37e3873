"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config``, repeated ``--set KEY=VALUE`` (parameter `overrides`) and ``--strict`` to a command."""
    for option in reversed(
        (
            click.option("--config", metavar="YAML", help="Configuration file.", required=True),
            click.option(
                "--set",
                "overrides",
                metavar="KEY=VALUE",
                multiple=True,
                help="Replace a key of the configuration, such as training.seed=7; repeatable.",
            ),
            click.option("--strict", is_flag=True, help="Refuse configuration keys that are unknown."),
        )
    ):
        function = option(function)
    return function
