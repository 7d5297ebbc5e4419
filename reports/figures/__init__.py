"""The figures: each module draws one kind from the tidy tables, and draws nothing else."""
