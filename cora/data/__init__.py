"""Data sets: tables, samples and batches, and made-up panoramas whose answers are known."""
