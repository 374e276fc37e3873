"""A language model as judge: grades by criteria, preferences in both orders, null where it said nothing usable."""
