"""A run in its folder: life cycle, checkpoints, journal, result, failures, lock, provenance."""
