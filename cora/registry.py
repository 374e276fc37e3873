"""Name -> class tables for the parts a user chooses by name: resamplers, crop strategies, losses, metrics."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Generic, TypeVar

from cora.errors import RegistryError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects, given directly or as a lazy ``"module:attribute"`` string.

    Args:
        kind: What is registered, for error messages (``"resampler"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}

    def add(self, name: str, target: T | str) -> None:
        """Register `target` under `name`; RegistryError when the name is taken by something else."""
        if self._entries.get(name, target) != target:
            raise RegistryError(f"{self.kind} '{name}' is already registered as {self._entries[name]!r}")
        self._entries[name] = target

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def decorate(target: T) -> T:
            self.add(name, target)
            return target

        return decorate

    def get(self, name: str) -> T:
        """Return what is registered under `name`, importing it if it was given as a string.

        Raises:
            RegistryError: The name is unknown; the message lists the known ones and the nearest.
        """
        if name not in self._entries:
            raise RegistryError(
                f"unknown {self.kind} '{name}'{did_you_mean(name, self._entries)}; known: {', '.join(self.names())}"
            )
        target = self._entries[name]
        if isinstance(target, str):
            module_name, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module_name), attribute)
            self._entries[name] = target
        return target

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
