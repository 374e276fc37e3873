"""Registering and finding parts by name."""

from __future__ import annotations

import fractions

import pytest

from cora.errors import ConfigError, RegistryError, did_you_mean
from cora.registry import Registry


def test_direct_and_lazy_entries_are_found():
    registry: Registry[type] = Registry("number")
    registry.add("fraction", "fractions:Fraction")
    registry.register("whole")(int)
    assert registry.get("fraction") is fractions.Fraction
    assert registry.get("fraction") is fractions.Fraction, "the resolved entry is kept"
    assert registry.get("whole") is int
    assert registry.names() == ["fraction", "whole"]
    assert "whole" in registry
    assert "half" not in registry


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    registry: Registry[type] = Registry("number")
    registry.add("whole", int)
    registry.add("real", float)
    with pytest.raises(RegistryError, match=r"^unknown number 'whol' \(did you mean 'whole'\?\); known: real, whole$"):
        registry.get("whol")
    assert issubclass(RegistryError, ConfigError)


def test_a_taken_name_is_refused_and_the_same_entry_is_not():
    registry: Registry[type] = Registry("number")
    registry.add("whole", int)
    registry.add("whole", int)
    with pytest.raises(RegistryError, match="number 'whole' is already registered"):
        registry.add("whole", float)
    assert registry.get("whole") is int


@pytest.mark.parametrize(
    ("name", "hint"),
    [("bimanba", " (did you mean 'bimamba'?)"), ("zzz", ""), ("", ""), ("mlp", " (did you mean 'mlp'?)")],
)
def test_did_you_mean(name, hint):
    assert did_you_mean(name, ["mlp", "bimamba"]) == hint
