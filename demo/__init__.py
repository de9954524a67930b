"""Five problems solved as tensor networks, each checked against a different algorithm: `python -m demo`."""
