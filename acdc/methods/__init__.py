"""Sparse-training methods: the contract, the registry, AC/DC, and what several methods share."""
