"""Benchmarks of CORA, imported as ``cora.bench``: speed beside the best alternatives, and quality beside the truth."""
