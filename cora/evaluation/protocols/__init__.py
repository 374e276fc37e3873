"""How answers to closed and spatial questions are read and judged: one small module per kind of question.

The column ``protocol`` of a table names one of `registry.PROTOCOLS`; a type of that name does too. What each reads,
tolerates and reports is in ``docs/protocols.md``.
"""
