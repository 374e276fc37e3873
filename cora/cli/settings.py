"""What ``--config`` and ``--set`` mean to commands that need a part of the configuration only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cora.errors import ConfigError

if TYPE_CHECKING:
    from cora.config.schema import CORAConfig, EndpointConfig
    from cora.inference.credentials import Endpoint


def check_overrides(overrides: Sequence[str], sections: Sequence[str]) -> None:
    """Raise a ConfigError where a ``--set`` is of another section than those a command listens to."""
    for text in overrides:
        if text.strip().partition(".")[0] not in sections:
            kind = "section" if len(sections) == 1 else "sections"
            names = " and ".join(filter(None, (", ".join(sections[:-1]), sections[-1])))
            raise ConfigError(f"--set {text}: only keys of the {kind} {names} have an effect here")


def load_sections(source: Path | None, overrides: Sequence[str], sections: Sequence[str]) -> CORAConfig:
    """Return a configuration, or the defaults where there is no file, with overrides that the command listens to.

    Args:
        source: The file.
        overrides: ``--set`` texts.
        sections: What they may change.

    Raises:
        ConfigError: An override is of another section, or a key or value is wrong.
    """
    from cora.config.manager import ConfigManager, validate
    from cora.config.schema import CORAConfig

    check_overrides(overrides, sections)
    if source is not None:
        return ConfigManager.load(source, overrides=overrides)
    document = ConfigManager.apply_overrides({}, overrides)
    return validate(CORAConfig, document, source="--set", overrides=overrides)


def open_endpoint(model: str, config: EndpointConfig, *, base_url: str | None = None) -> Endpoint:
    """Return the endpoint of a model; `base_url` goes before the configuration's."""
    from cora.inference.credentials import find_endpoint

    return find_endpoint(
        model,
        base_url or config.base_url,
        timeout_seconds=config.timeout_seconds,
        max_retries=config.max_retries,
        max_concurrent=config.max_concurrent,
    )
