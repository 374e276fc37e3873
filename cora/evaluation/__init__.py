"""From answers to scores: caption metrics, exact match, and runs that survive being stopped."""
