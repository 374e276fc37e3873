"""Reference implementations in plain torch: the meaning of each operation, and its fallback everywhere."""
