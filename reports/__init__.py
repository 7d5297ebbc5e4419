"""From the runs of a study to tables, figures and one report, by pure functions."""
