"""The mirror of results in MLflow; training imports nothing of it."""
