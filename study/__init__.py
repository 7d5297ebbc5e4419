"""A study: the experiments of the paper at one scale, resolved into rows and runs."""
