"""From experiments and scales, as data, to the runs and files that a study needs."""
