"""Memory (MB) and time (minutes) that the rules themselves ask for; a profile may say otherwise."""

TRAIN_MB, TRAIN_MINUTES = 2000, 60
"""Of one run; a pack asks for as many times as much as it has runs."""
THEORY_MB, THEORY_MINUTES = 3000, 30
"""Of one experiment; those of a SLURM job follow one another."""
