"""Placeholder until the model lands."""


def register_when_transformers_loads() -> None:
    """Do nothing yet."""
