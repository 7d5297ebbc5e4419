"""One-way copies of results in MLflow; training imports nothing of it."""
