"""From a YAML file and ``--set`` overrides to a validated configuration, and back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cora.config.documents import parse_value, read_document, write_document
from cora.config.schema import BaselineConfig, CORAConfig
from cora.config.sections import Section, UnknownKey, unknown_keys
from cora.errors import ConfigError

logger = logging.getLogger(__name__)

SchemaT = TypeVar("SchemaT", bound=Section)


class ConfigManager:
    """Loads and saves configurations; every error names the file and the dotted key."""

    @staticmethod
    def load(path: str | Path, *, overrides: Sequence[str] = (), strict: bool = False) -> CORAConfig:
        """Return the configuration of a CORA model.

        Args:
            path: YAML file.
            overrides: ``a.b=value`` texts that replace or add keys; values are read as YAML.
            strict: Whether unknown keys of the file are an error; they are a warning otherwise. An unknown key
                among the overrides is always an error.

        Raises:
            ConfigError: The file cannot be read, or a key or value is wrong.
        """
        return load_as(CORAConfig, path, overrides=overrides, strict=strict)

    @staticmethod
    def load_baseline(path: str | Path, *, overrides: Sequence[str] = (), strict: bool = False) -> BaselineConfig:
        """Return the configuration of a baseline, which accepts no key; arguments and errors as for `load`."""
        return load_as(BaselineConfig, path, overrides=overrides, strict=strict)

    @staticmethod
    def save(config: Section, path: str | Path) -> None:
        """Write every declared key with its resolved value, without the unknown keys, which did nothing."""
        write_document(config.known(), Path(path))

    @staticmethod
    def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
        """Return a copy of `document` with each ``a.b=value`` laid over it, the later ones winning.

        Raises:
            ConfigError: An override has no ``=``, an empty key, a value that is not YAML, or a path through a
                value that is not a mapping.
        """
        merged = copy.deepcopy(dict(document))
        for override in overrides:
            key, equals, text = override.partition("=")
            parts = key.strip().split(".")
            if not equals or not all(parts):
                raise ConfigError(f"--set {override}: expected KEY=VALUE with a dotted key, such as training.seed=7")
            _assign(merged, parts, parse_value(text), override)
        return merged

    @staticmethod
    def auto_detect_config(checkpoint: str | Path) -> Path | None:
        """Return the ``config.yaml`` (or ``.yml``) that belongs to `checkpoint`, or None.

        Looked for in the checkpoint directory, or beside a checkpoint file, and then one directory up: a run keeps
        its configuration above the folders of its stages and its export.
        """
        here = Path(checkpoint)
        folder = here if here.is_dir() else here.parent
        candidates = (parent / name for parent in (folder, folder.resolve().parent) for name in _CONFIG_NAMES)
        return next((path for path in candidates if path.is_file()), None)


_CONFIG_NAMES = ("config.yaml", "config.yml")


def load_as(schema: type[SchemaT], path: str | Path, *, overrides: Sequence[str] = (), strict: bool = False) -> SchemaT:
    """Return the file at `path` validated as `schema`; see `ConfigManager.load`."""
    document = read_document(Path(path))
    merged = ConfigManager.apply_overrides(document, overrides)
    return validate(schema, merged, source=str(path), overrides=overrides, strict=strict)


def validate(
    schema: type[SchemaT],
    document: Mapping[str, Any],
    *,
    source: str,
    overrides: Sequence[str] = (),
    strict: bool = False,
) -> SchemaT:
    """Return `document` as an instance of `schema`, with its unknown keys reported.

    Args:
        schema: The section to validate as.
        document: Plain values, overrides already applied.
        source: What messages call the document: usually its path.
        overrides: The overrides that went into it, so that a mistyped one is an error.
        strict: Whether the other unknown keys are errors too.

    Raises:
        ConfigError: A value is wrong, or a key is unknown where that is an error.
    """
    try:
        config = schema.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(f"{source}: {_describe(error)}") from error
    unknown = unknown_keys(config)
    typed = [override.partition("=")[0].strip() for override in overrides]
    for key in unknown:
        if any(_is_at_or_below(name, key.path) for name in typed):
            raise ConfigError(f"--set {key.path}: {_kind(key)} key{key.hint}")
    if strict and unknown:
        raise ConfigError(f"{source}: {_list_unknown(unknown)}")
    for key in unknown:
        logger.warning("%s: %s key %s is ignored%s", source, _kind(key), key.path, key.hint)
    return config


def _assign(document: dict[str, Any], parts: Sequence[str], value: Any, override: str) -> None:
    """Set the value at the dotted path `parts`, making mappings on the way."""
    *parents, last = parts
    inner = document
    for depth, part in enumerate(parents, start=1):
        # An empty section (`lora:`) is None in YAML.
        step = inner[part] if inner.get(part) is not None else inner.setdefault(part, {}) or {}
        if not isinstance(step, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parts[:depth])} is a value, not a section")
        inner[part] = step
        inner = step
    inner[last] = value


def _is_at_or_below(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(ancestor + ".")


def _kind(key: UnknownKey) -> str:
    return "retired" if key.is_retired else "unknown"


def _list_unknown(unknown: Sequence[UnknownKey]) -> str:
    plural = "s" if len(unknown) > 1 else ""
    return f"unknown key{plural} " + ", ".join(key.path + key.hint for key in unknown)


def _describe(error: ValidationError) -> str:
    """Return the errors as one line: ``training.devices: Input should be … (got 'x')``; several joined by ``; ``."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = _dotted(item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        shown = item["type"] != "value_error" and not isinstance(item["input"], dict)
        lines.setdefault(path, f"{message} (got {item['input']!r})" if shown else message)
    return "; ".join(f"{path}: {message}" if path else message for path, message in lines.items())


def _dotted(location: Sequence[int | str]) -> str:
    """Return a pydantic location as the user's dotted key, without the names of union members and validators."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if (part.isidentifier() and part not in _UNION_MEMBERS) or part.isdigit())


# Pydantic adds the member of a union it tried to the location of an error.
_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "tuple", "dict", "none"})
