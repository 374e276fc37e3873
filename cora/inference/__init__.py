"""Answers to questions about panoramas from an exported model, whatever software runs it."""
