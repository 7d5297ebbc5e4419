"""Masks and what is computed of them: selection, distributions, patterns, FLOPs, certificates."""
