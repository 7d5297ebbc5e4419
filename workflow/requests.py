"""Memory (MB) and time (minutes) that the rules themselves ask for; a profile may say otherwise."""

TRAIN_MB, TRAIN_MINUTES = 2000, 60
"""Of one run; a pack asks for as many times as much as it has runs."""
IHT_MB, IHT_MINUTES = 1000, 30
