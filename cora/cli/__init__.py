"""The commands: each parses its options, calls one function of a lower layer, and prints the result.

Nothing heavy is imported outside a command's body, so that ``--help`` is instant.
"""
