"""What every configuration section has in common: unknown keys are kept apart so that they can be reported.

Knows pydantic and nothing of any particular setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from cora.config.retired import why_retired
from cora.errors import did_you_mean


class UnknownKey(NamedTuple):
    """A key no section declares.

    Attributes:
        path: Dotted path in the document (``training.stage_configs.vision.lr_rate``).
        hint: `` (did you mean '…'?)``, or why a key of older files is retired, in brackets, or an empty string.
        is_retired: Whether it is such a key.
    """

    path: str
    hint: str
    is_retired: bool = False


class Section(BaseModel):
    """One mapping of a configuration file.

    Unknown keys are accepted, so that files of older versions load, but `unknown_keys` finds them all: the caller
    decides whether they are a warning or an error.
    """

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    # Keys that documents of this kind had once, see `cora.config.retired`.
    retired_keys: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, value: Any) -> Any:
        """Read ``lora:`` with nothing below it as an empty mapping: YAML gives None for it."""
        if not isinstance(value, Mapping):
            return value
        sections = {name for name, field in cls.model_fields.items() if _is_section(field.annotation)}
        return {key: item for key, item in value.items() if item is not None or key not in sections}

    def known(self) -> dict[str, Any]:
        """Return the declared keys as plain values (what YAML and JSON can hold), without the unknown ones."""
        dumped = self.model_dump(mode="json")
        _drop_unknown(self, dumped)
        return dumped


def unknown_keys(root: Section) -> list[UnknownKey]:
    """Return every key of `root` and its sub-sections that nothing declares, in document order."""
    everywhere = dict(_declared_paths(type(root)))
    found = []
    for path, section, key in _walk_unknown(root, prefix=""):
        if (reason := why_retired(path, type(root).retired_keys)) is not None:
            found.append(UnknownKey(path, f" (retired: {reason})", is_retired=True))
        else:
            found.append(UnknownKey(path, _hint(section, key, everywhere)))
    return found


def _walk_unknown(section: Section, prefix: str) -> Iterator[tuple[str, Section, str]]:
    for key in section.model_extra or {}:
        yield prefix + key, section, key
    for path, child in _children(section):
        yield from _walk_unknown(child, f"{prefix}{path}.")


def _children(section: Section) -> Iterator[tuple[str, Section]]:
    """Yield the sub-sections of `section` with their path below it, those held in mappings included."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items() if isinstance(item, Section))


def _drop_unknown(section: Section, dumped: dict[str, Any]) -> None:
    for key in section.model_extra or {}:
        del dumped[key]
    for path, child in _children(section):
        inner: Any = dumped
        for part in path.split("."):
            inner = inner[part]
        _drop_unknown(child, inner)


def _declared_paths(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, dotted path) of every key declared in `schema`; the outermost section comes last and so wins."""
    for name, field in schema.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _declared_paths(annotation, f"{prefix}{name}.")
        yield name, prefix + name


def _hint(section: Section, key: str, everywhere: Mapping[str, str]) -> str:
    """Suggest the same key of another section before a similar key of this one."""
    if key in everywhere:
        return f" (did you mean '{everywhere[key]}'?)"
    return did_you_mean(key, type(section).model_fields)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
