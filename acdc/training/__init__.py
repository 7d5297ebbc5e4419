"""The training loop and what it runs on: optimizers, learning rates, precision, evaluation."""
