"""Memory (MB) and time (minutes) that the rules request; a profile can override them."""

TRAIN_MB, TRAIN_MINUTES = 2000, 60
"""Of one run. A job requests the time of all its runs, and the memory of those at once."""
THEORY_MB, THEORY_MINUTES = 3000, 30
"""Of one experiment; those of a SLURM job follow one another."""
